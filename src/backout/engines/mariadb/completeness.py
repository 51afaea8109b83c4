"""What the server itself counts of an open transaction: rows modified, per transaction; and which tables it moved.

`INNODB_TRX.trx_rows_modified` is the number of undo records of a transaction. Measured with 10.11.19: it counts every row
that is inserted, updated or deleted, cascades and trigger writes included; a changed primary key counts twice (one row
gone, one made); an update to the same values does not count; what a savepoint's rollback or a failed statement takes
back is subtracted; rows of temporary InnoDB tables count too, and a bulk load of an empty table counts one.
The view is cached by the server and renewed only where nobody has read it for 0.1 s (trx0i_s.cc,
CACHE_MIN_IDLE_TIME_NS): so a reading counts only if it shows a marker of ours that is younger than the question.

`INNODB_SYS_TABLESTATS` has a modification counter per table, moved by cascades too (measured): tables that nothing named,
and that moved during the run, are looked at as well.
"""

from __future__ import annotations

import time

from backout.engines.mariadb.names import decoded
from backout.engines.mariadb.session import Session
from backout.engines.values import TableName
from backout.errors import ProofFailed

_RENEWED_S = 0.11
_PATIENCE_S = 10.0


class Counter:
    """Asks for a session's count. `control` is in autocommit, and opens a transaction of its own as a marker."""

    def __init__(self, control: Session) -> None:
        self._control = control
        self._last_marker = 0

    def rows_modified(self, session: Session) -> int:
        """Undo records of the session's open transaction by now; ProofFailed where the server does not tell."""
        control = self._control
        control.run("START TRANSACTION")
        try:
            control.run(f"INSERT INTO backout.pulse (session) VALUES ({control.number})")
            until = time.monotonic() + _PATIENCE_S
            while time.monotonic() < until:
                found = {
                    int(row[0]): (int(row[1]), int(row[2]))
                    for row in control.rows(
                        "SELECT trx_mysql_thread_id, trx_id, trx_rows_modified FROM information_schema.INNODB_TRX "
                        f"WHERE trx_mysql_thread_id IN ({control.number}, {session.number})"
                    )
                }
                marker = found.get(control.number, (0, 0))
                if marker[1] and marker[0] != self._last_marker:
                    self._last_marker = marker[0]
                    return found.get(session.number, (0, 0))[1]
                time.sleep(_RENEWED_S)
        finally:
            control.run("ROLLBACK")
        raise ProofFailed(
            "the server does not tell how many rows the transaction has written (information_schema.INNODB_TRX)",
            hint="somebody reads that view all the time: stop that monitoring for the length of the run",
        )


Counters = dict[str, tuple[TableName, int, int]]


def table_counters(session: Session) -> Counters:
    """InnoDB's name -> (table, rows, modifications since the last statistics) of tables that the server has opened."""
    rows = session.rows(
        f"SELECT NAME, {decoded('NAME')}, NUM_ROWS, MODIFIED_COUNTER FROM information_schema.INNODB_SYS_TABLESTATS"
    )
    return {
        str(name): (TableName(str(schema), str(table)), int(count), int(moved))
        for name, schema, table, count, moved in rows
    }


def moved_tables(before: Counters, after: Counters) -> set[TableName]:
    """The tables that somebody may have written meanwhile."""
    return {now[0] for name, now in after.items() if before.get(name, (now[0], now[1], 0)) != now}
