"""What `scripts/fuzz.py` and `tests/fuzz` share: the doors, the mutations, and the watch over both."""
