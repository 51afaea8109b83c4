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
# tracking = "tracking"                 # the folder of the CSV files of @pre, @post and of the change itself

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
# # connect = {command = ["ssh", "-NL", "15432:db:5432", "bastion"]} # started first; the url is 127.0.0.1:15432
# role = "clinic_app"                   # the role that changes run under
# program_time = "30 min"               # a program may take that long, be idle and spend on one statement that long
# program_idle = "15 minutes"
# program_statement = "1 min"
# agree_within = "10 min"               # a session waits that long for two people, and is rolled back
# watcher = "optional"                  # "required": nobody types in a session unless somebody watches it
# watcher_gone = "30 seconds"           # a session whose watcher shows no sign of life for so long is rolled back
# outbound = "none"                     # "real": programs here send mail; a ghost run of one must not
# superuser = "refuse"                  # "refuse" | "allow"
# lock_timeout = "5 seconds"            # wait that long for a lock, and no longer
# statement_timeout = "2 minutes"       # no limit when left out
# keep = "7 days"                       # how long the way back is kept
# rescue_schema = "rescue"              # where the rows are kept as they were
# min_proof = "bounded"                 # the least proof that is committed: "bounded" | "repeated" | "exact"
# isolation = "read committed"          # "read committed" | "repeatable read"
# scan_limit = "8 GB"                   # tables of that size or more are armed with triggers instead of scanned
# arm = ["public.audit_log"]            # such tables that only a trigger or a function writes to
# batch_above = 100_000                 # a change that writes more rows than this at once must run in batches
# batch_time = "100 ms"                 # how long a batch of a large change holds the locks on its rows
# replica_lag = "5 seconds"             # large changes wait as long as a replica lags behind by more
# replicas = ["standby-1"]              # those that count, by their application_name; all when left out
# long_transaction = "1 hour"           # and as long as somebody's transaction is older
# pause_file = "/run/backout.pause"     # and as long as this file is there
# wal_rate = "50 MB"                    # and as long as the server writes more log than this a second
# archive_backlog = "1 GB"              # and as long as more log than this waits to be archived
# commit_latency = "50 ms"              # and as long as a commit of one small row takes longer
# quiet_hours = ["Mon-Fri 08:00-18:00"] # and inside of these hours
# analyze = true                        # before them, a table whose statistics are stale is analysed
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
# subset = true                         # some rows first, where the change says by @subset what they are
# reveal = ["team-lead"]                # who may see rows that are PHI with --reveal
# attest = 2                            # so many people look at the application after a run, and say what they saw
# [environments.production.parameters]  # values of the changes' parameters that differ per environment
# cutoff = 2026-11-14
"""
