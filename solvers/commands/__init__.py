"""What `python -m solvers` can do with a file, one command or target a file. Nothing here is needed to sample."""
