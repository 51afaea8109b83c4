"""Foreign keys of the rows that an undo writes: what the server does not check, and what it would do to others' rows.

Invariant: only the conflict table is written.
"""

from __future__ import annotations

from backout.engines.postgres.catalogue import foreign_keys
from backout.engines.postgres.undo_foreign_keys import orphans, referenced_by_others, strangers
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.postgres.undo_work import Way, Work


def someone_would_be_hit(work: Work) -> int:
    """Where foreign keys act (not in the replica role): rows to delete that others' rows refer to with CASCADE and such.

    They become conflicts, since deleting them would delete or change rows that are not ours.
    """
    if work.way is Way.REPLICA:
        return 0
    found = 0
    by_oid = {table.undo.table.identifier: table for table in work.tables}
    for fk in foreign_keys(work.main, list(by_oid)):
        parent = by_oid.get(fk.parent_oid)
        if parent is None or not fk.acts:
            continue
        if isinstance(parent, KeyedTable) and parent.has_after:
            work.main.run(
                f"SELECT FROM {parent.target} AS t JOIN {parent.after} ON {parent.now_is('q')} FOR UPDATE OF t"
            )
        children = [by_oid[oid] for oid in fk.child_oids if oid in by_oid]
        ours = " OR ".join(
            f"(c.tableoid = {child.undo.table.identifier} AND {child.lets_go('c', fk.columns)})" for child in children
        )
        look = referenced_by_others(parent, fk, ours or "false")
        if look is not None:
            found += work.main.run(look, doing="look for rows that refer to ours").affected
    return found


def given_to_strangers(work: Work) -> int:
    """Rows whose parent was deleted by the run and whose parent's key others have used again."""
    found = 0
    by_oid = {table.undo.table.identifier: table for table in work.tables}
    for fk in foreign_keys(work.main, list(by_oid)):
        child, parent = by_oid.get(fk.child_oid), by_oid.get(fk.parent_oid)
        if child is None or not isinstance(parent, KeyedTable):
            continue
        look = strangers(child, parent, fk)
        if look is not None:
            found += work.main.run(look, doing="look for rows whose parent is another one now").affected
    return found


def broken_keys(work: Work) -> int:
    """In the replica role the server checks no foreign key: do it here, for every row that the undo wrote."""
    if work.way is not Way.REPLICA:
        return 0
    found = 0
    by_oid = {table.undo.table.identifier: table for table in work.tables}
    for fk in foreign_keys(work.main, list(by_oid)):
        child, parent = by_oid.get(fk.child_oid), by_oid.get(fk.parent_oid)
        texts = []
        if child is not None:
            may_lock = work.main.value(
                "SELECT pg_catalog.has_any_column_privilege(session_user, $1::oid, 'UPDATE')", [fk.parent_oid]
            )
            lock = "FOR KEY SHARE" if may_lock else ""
            texts.append(orphans(child, fk, lock))
        if parent is not None:
            texts.append(referenced_by_others(parent, fk, None))
        for text in texts:
            if text is not None:
                found += work.main.run(text, doing=f'check foreign key "{fk.name}"').affected
    return found
