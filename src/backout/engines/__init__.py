"""The databases that backout can guard: one folder each, the only rooms that import a driver.

`protocol.py` is what every engine promises, `values.py` the facts and plans that cross that seam.
"""
