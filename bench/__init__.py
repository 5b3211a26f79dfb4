"""The benchmark of rnnkernels: `python -m bench --help`."""
