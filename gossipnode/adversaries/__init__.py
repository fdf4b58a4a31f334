"""Hostile nodes as test equipment: start reading at `kinds`."""
