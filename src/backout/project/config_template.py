"""The `backout.toml` that `backout init` writes: valid as it is, and explained by its comments.

Not for: writing it. Twin: `config_file`, which reads these keys, and `docs/reference/configuration.md`.
"""

TEMPLATE = """\
# backout's configuration; every key is explained in docs/reference/configuration.md.

[project]
# name = "clinic"
changes = "changes"                     # the folder of the change files
# What is asked of people: "solo" asks nothing, "team" and "hipaa" ask for other people's approvals, a rehearsal and
# notice before production. With nothing said here, an environment named "production" is strict: "team".
profile = "solo"
# allowed_signers = "allowed_signers"   # public keys of people, in git's format: see docs/how-to/four-eyes.md
# ledger = "postgresql://localhost/ops" # what people said; a file beside this one when left out
# statements = "files"                  # or in files beside the change, which git merges

# [people.ann]                          # who is who
# email = "ann@example.org"
# roles = ["team-lead"]

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
# scan_limit = "8 GB"                   # tables of that size or more are armed with triggers instead of scanned
# arm = ["public.audit_log"]            # such tables that only a trigger or a function writes to
# batch_time = "100 ms"                 # how long a batch of a large change holds the locks on its rows
# replica_lag = "5 seconds"             # large changes wait as long as a replica lags behind by more
# long_transaction = "1 hour"           # and as long as somebody's transaction is older
# pause_file = "/run/backout.pause"     # and as long as this file is there
# profile = "team"                      # "solo" | "team" | "hipaa"; each key below overrides it
# after = ["dev"]                       # rehearsed there
# approvals = ["correctness", "safety"] # by two people who did not write it
# roles = {safety = "team-lead"}        # who may give one
# documents = ["risk", "mitigation"]    # what the change's metadata must say
# announce = {before = "24 hours"}      # how long before the run it is announced
# overrule = ["team-lead"]              # who may overrule an objection
# window = ["Mon-Thu 09:00-17:00 UTC"]  # when runs may begin
# operators = ["ann"]                   # who may run here
# emergency = ["ann"]                   # who may run without waiting for people
# [environments.production.parameters]  # values of the changes' parameters that differ per environment
# cutoff = 2026-11-14
"""
