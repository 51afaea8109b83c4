"""The `backout.toml` that `backout init` writes: valid as it is, and explained by its comments.

Not for: writing it. Twin: `config_file`, which reads these keys, and `docs/reference/configuration.md`.
"""

TEMPLATE = """\
# backout's configuration; every key is explained in docs/reference/configuration.md.

[project]
# name = "clinic"
changes = "changes"                     # the folder of the change files

[undo]
# Columns that the application writes by itself: differing there alone is no conflict, and the value of now stays.
bookkeeping = ["updated_at"]
# Tables that are only added to: what a run wrote there is captured and never undone.
append_only = []

# [tables.referral]                     # a table's own list, instead of the project's
# bookkeeping = ["updated_at", "lock_version"]

# An environment is a named database. Passwords do not belong into this file: ${NAME} is a variable of the process.
# [environments.dev]
# url = "postgresql://localhost/clinic_dev"

# [environments.production]
# url = "postgresql://backout:${CLINIC_PASSWORD}@db.example.org/clinic"
# # url_env = "CLINIC_URL"              # or the whole URL in a variable
# # url_file = "/run/secrets/clinic"    # or in the first line of a file
# role = "clinic_app"                   # the role that changes run under
# superuser = "refuse"                  # "refuse" | "allow"
# lock_timeout = "5 seconds"            # wait that long for a lock, and no longer
# statement_timeout = "2 minutes"       # no limit when left out
# keep = "7 days"                       # how long the way back is kept
# rescue_schema = "rescue"              # where the rows are kept as they were
# min_proof = "bounded"                 # the least proof that is committed: "bounded" | "repeated" | "exact"
# isolation = "read committed"          # "read committed" | "repeatable read"
# [environments.production.parameters]  # values of the changes' parameters that differ per environment
# cutoff = 2026-11-14
"""
