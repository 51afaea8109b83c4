"""The twenty cases on which row-undo tools lose data: each was seen to fail in at least one tool in use.

A test of a case is named `test_case_NN_…`. Every engine either captures all rows of a case and undoes it exactly, or
refuses before anything is written, with the reason; a silent miss is the only failure.
"""

from __future__ import annotations

CASES = {
    1: "a delete inside a CTE",
    2: "two updates of one table with different columns",
    3: "statements whose rows exist, or match, only after an earlier one",
    4: "cascades: delete, set null, set default, and of changed keys",
    5: "a delete with several matches per row, in a table without a key",
    6: "an update with several matches per row",
    7: "children deleted, and then their parent",
    8: "identity keys and generated columns",
    9: "types without equality, and values that are equal and not the same",
    10: "aliases, qualified and quoted names, names that shadow a CTE",
    11: "rows that others changed or deleted since",
    12: "upsert, merge, functions, views, and what cannot be captured at all",
    13: "triggers: `updated_at` and audit logs",
    14: "unique indexes instead of keys, partial ones, on expressions",
    15: "columns added, dropped or renamed since, tables made anew",
    16: "volatile predicates, and LIMIT without an order",
    17: "writes by others while the run is at work",
    18: "names that share their beginning, and names with everything in them",
    19: "no key at all, duplicate rows, changed and swapped keys",
    20: "rows hidden by row security, partitions, inheritance",
}
