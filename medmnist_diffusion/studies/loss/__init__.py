"""Which loss, which recipe? The source study's table with floors, seeds and tests; `study.py` is the command."""
