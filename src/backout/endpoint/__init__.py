"""Any client, one guard: a PostgreSQL server on loopback whose every connection is part of one supervised run."""
