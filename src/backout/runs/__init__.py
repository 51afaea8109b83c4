"""Runs: the life of a run, supervised."""
