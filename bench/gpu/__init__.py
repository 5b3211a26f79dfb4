"""`python -m bench --suite gpu`: minutes on a card become recorded facts, in three stages that go on after a cut.

known.py    what is known before anything is measured: published times, the model floor, which algorithm cuDNN takes
grid.py     the points, the most telling first, and their bars
card.py     the card at hand, and what is missing to use it
record.py   the JSON of a card: what is there already, what an earlier build made
stages.py   the stages: checks.py, limits.py and kernels.py are the first, points.py in a process of its own the others
lend.sh     a stage on a machine that is lent for minutes, with a copy of this tree
report.py   Markdown and plot
"""
