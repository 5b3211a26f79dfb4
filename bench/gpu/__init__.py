"""`python -m bench --suite gpu`: minutes on a card turned into recorded facts, in three stages that can be cut off and go on.

known.py    what is known before anything is measured: published times, the model floor, which algorithm cuDNN takes
grid.py     the points, the most telling first, and their bars
card.py     the card at hand, and what is missing to use it
record.py   the JSON of a card: what is there already, what an earlier build made
stages.py   the stages; checks.py, limits.py and kernels.py are what the first consists of, points.py what the others do, in a process of its own
lend.sh     a stage on a machine that is lent for minutes, with a copy of this tree
report.py   Markdown and plot
"""
