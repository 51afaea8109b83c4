"""Backups: taken before a run, recorded, found again, restored, and dropped when their time is over."""
