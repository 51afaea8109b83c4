"""Are the planner's statistics of the table those of the table as it is? Before a run in batches.

A batch finds its rows by the key's index, whatever the statistics say. What else the statement joins or looks up for them
is planned by the statistics, and a plan that is wrong for 3,000 rows is wrong a thousand times.
"""

from __future__ import annotations

from backout.engines.postgres.names import qualified
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import Table
from backout.errors import BackoutError


def stale_statistics(session: Session, table: Table, *, analyze: bool) -> str | None:
    """What is wrong with them, and what was done about it; None: nothing is. ANALYZEs where told to and allowed to."""
    never, changed, rows, grown, may = session.one(query("statistics", "batches.sql"), [table.identifier])
    if never:
        why = "it was never analysed"
    elif changed > rows / 5 + 1_000:  # twice autovacuum_analyze_scale_factor (manual 20.10): it should have come by
        why = f"{changed:,} rows were written since it was analysed, when it had {rows:,}"
    elif grown:
        why = "it has more than twice the pages that it had when it was analysed"
    else:
        return None
    found = f'the statistics of "{table.name}" are stale: {why}'
    if not analyze:
        return f"{found}; batches may be planned badly: ANALYZE {qualified(table.name)}, or set `analyze = true`"
    if not may:
        return f"{found}, and this role may not ANALYZE it: let its owner do so"
    try:
        session.run(f"ANALYZE {qualified(table.name)}", doing="analyse the table", state="untouched")
    except BackoutError as error:  # a lock timeout, say: the run does without
        return f"{found}, and ANALYZE failed: {error.message}"
    return f"{found}: analysed"
