"""Do generated images help a classifier? `study.py` is the command."""
