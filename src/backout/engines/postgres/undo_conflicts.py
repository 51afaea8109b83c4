"""The rows in conflict: found by value and by trying, numbered, listed with their rows, and fingerprinted.

Invariant: when `discover` returns, nothing is written but the conflict table.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from backout.engines.postgres.undo_columns import CONFLICT_TABLE, HELD
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_moved import classify_gone, hold_halves, tell_old_keys
from backout.engines.postgres.undo_piecemeal import write_or_find
from backout.engines.postgres.undo_references import broken_keys, given_to_strangers, someone_would_be_hit
from backout.engines.postgres.undo_work import Work
from backout.engines.values import Conflict, ConflictKind

LISTED_CONFLICTS = 1000


def discover(work: Work) -> None:
    """Fill the conflict table: first by value, then by trying, until nothing new is found. Nothing stays written."""
    work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
    for table in work.tables:
        for text in table.classify():
            work.main.run(text, doing="compare the rows of now")
        if isinstance(table, KeyedTable) and table.place not in work.rewritable:
            refused = table.classify_renumbered()
            if refused is not None:
                work.main.run(refused, doing="compare the rows of now")
    classify_gone(work)
    while True:
        found = someone_would_be_hit(work) + given_to_strangers(work) + hold_halves(work)
        if not found:
            work.main.run("SAVEPOINT backout_undo")
            before = work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}")
            write_or_find(work)
            found = broken_keys(work) + work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE}") - before
            kept = (
                work.main.run(f"SELECT place, identity, kind, columns, detail FROM {CONFLICT_TABLE}").rows
                if found
                else []
            )
            work.main.run("ROLLBACK TO SAVEPOINT backout_undo")
            if found:
                _put_back(work, kept)
        if not found:
            break
    work.main.run(
        f"UPDATE {CONFLICT_TABLE} x SET number = n.number FROM (SELECT c.ctid AS at, row_number() OVER "
        f'(ORDER BY c.place, c.identity COLLATE "C") AS number FROM {CONFLICT_TABLE} c '
        f"WHERE c.kind <> '{HELD}') n WHERE x.ctid = n.at"
    )
    tell_old_keys(work)


def _put_back(work: Work, rows: Sequence[tuple[int, str, str, list[str], str | None]]) -> None:
    """The conflict table lost what was found inside of the savepoint; write it anew, one row for each identity."""
    work.main.run(f"DELETE FROM {CONFLICT_TABLE}")
    unique = {(place, identity): rest for place, identity, *rest in reversed(rows)}
    for (place, identity), rest in unique.items():
        work.main.run(
            f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, detail) VALUES ($1, $2, $3, $4, $5)",
            [place, identity, *rest],
        )


def refused_though_forced(work: Work) -> set[tuple[int, str]]:
    """(place, identity) of the rows that were to be overwritten and that a constraint refused all the same."""
    both = "f.forced AND f.place = x.place AND f.identity = x.identity"
    return set(
        work.main.run(
            f"SELECT x.place, x.identity FROM {CONFLICT_TABLE} x WHERE NOT x.forced "
            f"AND EXISTS (SELECT FROM {CONFLICT_TABLE} f WHERE {both})"
        ).rows
    )


def numbers_of(work: Work, rows: set[tuple[int, str]]) -> set[int]:
    """The numbers that these conflicts have in the list."""
    if not rows:
        return set()
    found = work.main.run(f"SELECT place, identity, number FROM {CONFLICT_TABLE}").rows
    return {number for place, identity, number in found if (place, identity) in rows}


def listed(work: Work) -> tuple[tuple[Conflict, ...], str, int]:
    """The conflicts that nobody forces: (numbered, with their rows; a fingerprint of that list; how many more).

    By the fingerprint a later answer is known to be about the very list that was shown.
    """
    total = work.main.value(f"SELECT count(*) FROM {CONFLICT_TABLE} WHERE NOT forced AND kind <> '{HELD}'")
    conflicts: list[Conflict] = []
    for table in work.tables:
        names = [pair.captured.name for pair in table.pairs]
        key = table.undo.captured.table.key
        ours = names
        if isinstance(table, KeyedTable):
            ours = [p.captured.name for p in table.pairs if p in table.key or p in table.touched]
        for number, kind, columns, detail, *cells in work.main.run(table.rows_in_conflict(LISTED_CONFLICTS)).rows:
            before = _row(names, cells[: len(names)])
            after = _row(ours, cells[len(names) : len(names) + len(ours)])
            now = _row(names, cells[len(names) + len(ours) :])
            if before is not None and after is not None:
                after = {**before, **after}
            known = before or after or now or {}
            identity = {name: known.get(name) for name in (key or names)}
            conflicts.append(
                Conflict(
                    number,
                    table.undo.table.name,
                    ConflictKind(kind),
                    identity,
                    tuple(columns),
                    before,
                    after,
                    now,
                    detail or "",
                )
            )
    text = repr((total, [(c.number, str(c.table), c.kind.value, c.key, c.now) for c in conflicts]))
    listed = tuple(sorted(conflicts, key=lambda c: c.number))
    return listed, sha256(text.encode()).hexdigest(), total - len(listed)


def _row(names: Sequence[str], cells: Sequence[str | None]) -> dict[str, str | None] | None:
    row = dict(zip(names, cells, strict=True))
    return row if any(value is not None for value in row.values()) else None
