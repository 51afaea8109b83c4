"""`backout demo`: a small clinic on a PostgreSQL made for it, one change, and its way back."""
