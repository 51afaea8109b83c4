"""Rows that may be two halves of one: where a run may have changed a key, a row is put back whole or not at all.

By its key alone such a row looks like one that was deleted and another one that was inserted. An engine that does not know
which became which leaves all rows of a table that are in one image only, as soon as one of them is in conflict: otherwise
the row would be there twice, or be gone. Such a row has the kind `HELD` in the undo's work table, and no number.

Not for: PostgreSQL, whose server knows (`postgres/moved.py`). Work tables: see `undo_rows.py` of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

HELD = "HELD"

_LISTED = f"kind IS NOT NULL AND kind <> '{HELD}'"


def hold(ask: Callable[[str], object], run: Callable[[str], object], tables: Sequence[str]) -> None:
    """Leave the rows of these work tables that may be halves of rows in conflict, also such as were to be forced."""
    for table in tables:
        if all(
            ask(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {condition})")
            for condition in (f"a <> b AND {_LISTED}", "b AND NOT a", "a AND NOT b")
        ):
            run(f"UPDATE {table} SET action = NULL, forced = 0, kind = '{HELD}' WHERE a <> b AND action IS NOT NULL")


def release(run: Callable[[str], object], tables: Sequence[str]) -> None:
    """Some conflicts are to be overwritten: what was left for their sake is tried again."""
    for table in tables:
        run(
            f"UPDATE {table} SET action = CASE WHEN b THEN 'insert' ELSE 'delete' END, kind = NULL WHERE kind = '{HELD}'"
        )


def notes_on_halves(ask: Callable[[str], object], tables: Mapping[str, object]) -> Iterator[str]:
    """How many rows are left for the sake of others, in words; `tables`: what each work table is about."""
    for table, name in tables.items():
        count = ask(f"SELECT count(*) FROM {table} WHERE kind = '{HELD}'")
        if count:
            rows = "1 more row of" if count == 1 else f"{count} more rows of"
            yield f'{rows} "{name}" are left as well: the run may have changed keys there, and no half of a row is put back'
