"""Capture judged, undo planned: pure values. The engines carry them out."""
