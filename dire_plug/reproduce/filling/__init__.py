"""What fills cells: `runs.py` from a run's own metrics, the others from what a finished run, or a set, is put to."""
