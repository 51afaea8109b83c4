"""What the keys of `backout.toml` mean, for the documentation. Twin: `project/config_file.py`, which reads them.

Invariant: a test holds the two against each other, so that no key is undocumented.
"""

#: table -> (key, default, meaning)
KEYS = {
    "project": (
        ("name", "-", "The project's name."),
        ("changes", '`"changes"`', "The folder of the change files."),
    ),
    "undo": (
        ("bookkeeping", "`[]`", "Columns that the application writes by itself: to differ there is no conflict."),
        ("append_only", "`[]`", "Tables that are only added to: captured, never undone."),
    ),
    "tables.NAME": (
        ("bookkeeping", "`[]`", "This table's own columns, instead of the project's; also `[tables.\"schema.name\"]`."),
    ),
    "environments.NAME": (
        ("url", "-", "`postgresql://…` or `sqlite:///…`; or `url_env`, or `url_file`. `${NAME}`: a process variable."),
        ("url_env", "-", "The variable that holds the whole URL."),
        ("url_file", "-", "The file whose first line is the URL."),
        ("role", "the login role", "The role that changes run under."),
        ("superuser", '`"refuse"`', '`"allow"` lets changes run as a superuser.'),
        ("lock_timeout", '`"5 seconds"`', "How long to wait for a lock."),
        ("statement_timeout", "no limit", "How long one statement may take."),
        ("keep", '`"7 days"`', "How long rescue tables are kept."),
        ("rescue_schema", '`"rescue"`', "The schema of the rescue tables."),
        ("min_proof", '`"bounded"`', 'The least proof that is committed: `"bounded"`, `"repeated"` or `"exact"`.'),
        ("isolation", '`"read committed"`', 'Or `"repeatable read"`.'),
        ("parameters", "-", "A table with the values of parameters that differ per environment."),
    ),
}  # fmt: skip
