"""The session of a run in batches, lent to a program: what is done with it between two of its statements.

There is always a transaction: a batch, or, before the first and behind the last, one that can only read (manual: SET
TRANSACTION, "READ ONLY") and is rolled back. What a COMMIT or ROLLBACK takes along of the clients' settings is carried over:
a setting that was SET in a transaction goes back with it (manual: SET), and what is local to it ends in any case.

Not for: whether a batch is committed. Invariant: outside of a transaction the session has its own settings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from backout.engines.batches import Key, Keyset
from backout.engines.postgres.batch_past import Past
from backout.engines.postgres.journal import PostgresJournal
from backout.engines.postgres.lines import keep_lines, last_line
from backout.engines.postgres.loan import Loan, lend, newcomers
from backout.engines.postgres.names import literal, quoted
from backout.engines.postgres.session import Session
from backout.engines.values import Settings

_READ = "SELECT u.name, pg_catalog.current_setting(u.name, true) FROM pg_catalog.unnest($1::pg_catalog.text[]) u(name)"
_WRITE = (
    "SELECT pg_catalog.set_config(u.name, u.value, u.is_local) FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), "
    "pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.bool[])) u(name, value, is_local)"
)


class BatchLoan:
    """See `engines.batches.LendsBatches`."""

    def __init__(self, settings: Settings, journal: PostgresJournal, main: Session, past: Past, keyset: Keyset) -> None:
        self._settings, self._journal, self._main, self._past, self._keyset = settings, journal, main, past, keyset
        self._reads = False

    def lend(self) -> AbstractContextManager[Loan]:
        """See the protocol."""
        self.begin_reading()
        return lend(self._main)

    def newcomers(self, since_s: float) -> Sequence[str]:
        """See `engines.protocol.Lends`."""
        control = self._journal.control
        return newcomers(control, [self._main.pid, self._past.pid, control.pid], since_s)

    def transcribe(self, run: int, lines: Sequence[tuple[int, str, str]]) -> None:
        """See `engines.protocol.Lends`."""
        keep_lines(self._journal.control, self._settings.rescue_schema, run, lines)

    def last_line(self, run: int) -> tuple[int, str] | None:
        """See the protocol."""
        return last_line(self._journal.control, self._settings.rescue_schema, run)

    # -- between two transactions --------------------------------------------------------------------------------------

    def begin_reading(self) -> None:
        """See the protocol."""
        role = f"; SET LOCAL ROLE {quoted(self._settings.role)}" if self._settings.role else ""
        self._main.run(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0"
            f"; SET LOCAL row_security = off{role}",
            doing="begin to read",
        )
        self._reads = True

    def end_reading(self) -> None:
        """See the protocol."""
        if self._reads and not self._main.lost:
            self._main.run("ROLLBACK")
        self._reads = False

    def release(self, savepoint: str) -> None:
        """See the protocol."""
        self._main.run(f"RELEASE SAVEPOINT {quoted(savepoint)}")

    def take_settings(self, own: Mapping[str, str], memory: Collection[str]) -> Mapping[str, tuple[str, bool]]:
        """See the protocol."""
        wanted = [*own, *memory]
        if not wanted:
            return {}
        found = {name: value for name, value in self._main.run(_READ, [wanted]).rows if value is not None}
        before = {name: found[kept][1:] for name, kept in own.items() if found.get(kept)}
        self.put_settings({name: (value, False) for name, value in before.items()})
        return {name: (value, name not in own) for name, value in found.items()}

    def put_settings(self, carried: Mapping[str, tuple[str, bool]]) -> None:
        """See the protocol."""
        if carried:
            values, local = zip(*carried.values(), strict=True)
            self._main.run(
                _WRITE, [list(carried), list(values), list(local)], doing="put the clients' settings in place"
            )

    @property
    def statement(self) -> str:
        """See the protocol. Names are qualified, operators left out: a client's search_path may stand before pg_catalog."""
        types = {column.name: column.type for column in self._keyset.table.columns}
        single = len(self._keyset.by) == 1
        cells = [f"{_said('number')}::bigint AS number"]
        for place, name in enumerate(self._keyset.by):
            after, upto = ("after", "upto") if single else (quoted(f"after_{name}"), quoted(f"upto_{name}"))
            first = f"CASE WHEN pg_catalog.texteq({_said('first')}, 'no') THEN {_said(f'after{place}')} END"
            cells += [f"({first})::{types[name]} AS {after}", f"{_said(f'upto{place}')}::{types[name]} AS {upto}"]
        cells += [f"{_said('condition')} AS condition", f"{_said('again')}::boolean AS again"]
        return f"SELECT {', '.join(cells)} WHERE pg_catalog.texteq({_said('more')}, 'yes')"

    def tell(self, number: int, after: Key | None, upto: Key, where: str, *, again: bool) -> None:
        """See the protocol."""
        told = {
            "number": str(number), "first": "yes" if after is None else "no", "condition": where,
            "again": "true" if again else "false", "more": "yes",
            **{f"after{place}": value for place, value in enumerate(after or ())},
            **{f"upto{place}": value for place, value in enumerate(upto)},
        }  # fmt: skip
        self.put_settings({f"backout.b_{name}": (value, True) for name, value in told.items()})


def _said(name: str) -> str:
    return f"pg_catalog.current_setting({literal(f'backout.b_{name}')}, true)"
