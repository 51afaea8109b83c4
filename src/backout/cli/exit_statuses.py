"""The table of exit statuses, for the documentation. Twin: the classes of `backout.errors`, which have the numbers."""

#: (status, what it means, the state of the database)
STATUSES = (
    (0, "done", "as asked"),
    (1, "a bug in backout: please report it", "said in the message"),
    (2, "usage, or an invalid change or configuration file (file, line, column)", "untouched"),
    (3, "refused (by what, and what would satisfy it); `check` and `doctor`: they found something wrong", "untouched"),
    (
        4,
        "a database error, an expectation or an assertion failed; `ghost --undo`: the way back is not proven",
        "rolled back",
    ),
    (5, "an undo met conflicts (numbered: key, before, ours, now)", "untouched, or with `--partial` the rest undone"),
    (6, "the completeness proof failed (table, operation, counted, captured)", "rolled back"),
    (
        7,
        "busy: somebody else holds the lease, or a lock was not got in time (by whom)",
        "untouched or rolled back, said",
    ),
    (8, "interrupted; a run in batches can be resumed", "rolled back, or said"),
    (9, "a check after the commit failed; `rehearse`: it did not prove what it is for", "committed, or put back, said"),
    (10, "a run in batches failed, and some of them are committed", "said, with the last batch that is"),
    (11, "the outcome is not known yet (the server went away in COMMIT), with the command that settles it", "unknown"),
)
