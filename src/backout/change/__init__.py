"""A change file: text in, a value out. No database."""
