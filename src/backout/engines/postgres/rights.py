"""What the rights of now say of writes to come: the GRANTs without which a change, or its undo, is certain to fail.

Not for: what cannot be known beforehand (row security, what a function may do, columns that a value decides). Invariant:
only what is certain is said, so that nothing is refused that would have worked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from backout.engines.postgres import catalogue
from backout.engines.postgres.names import qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo_triggers import undo_obstacle
from backout.engines.values import Foreseen, TableName, Write

#: operation -> (the right to do it, the right to take it back)
_RIGHTS = {"insert": ("INSERT", "DELETE"), "update": ("UPDATE", "UPDATE"), "delete": ("DELETE", "INSERT")}


def foresee(session: Session, role: str | None, writes: Sequence[Write]) -> Foreseen:
    """See the protocol. Only tables are looked at: what a view or a rule needs depends on what it makes of the write."""
    login = session.value("SELECT session_user::text")
    operations: dict[str, set[str]] = {}
    for write in writes:
        oid = catalogue.oid_by_name(session, write.schema, write.table)
        if oid is not None and write.operation in _RIGHTS:
            operations.setdefault(oid, set()).add(write.operation)
    forwards, back, oids = [], [], []
    for oid, doing in operations.items():
        rows = session.run(query("rights_on_table"), [oid, role or login, login]).rows
        if not rows:
            continue
        oids.append(oid)
        schema, name, of_role, of_login = rows[0]
        table = TableName(schema, name)
        wanted, inverse = ({_RIGHTS[one][side] for one in doing} for side in (0, 1))
        forwards += _grants(table, wanted - set(of_role), role or login)
        forwards += _grants(table, {"SELECT"} - set(of_login), login)
        back += _grants(table, inverse - set(of_login), login)
    return Foreseen(tuple(forwards), tuple(back), undo_obstacle(session, oids) if oids else None)


def _grants(table: TableName, missing: Collection[str], role: str) -> list[str]:
    return [f"GRANT {', '.join(sorted(missing))} ON {qualified(table)} TO {quoted(role)};"] if missing else []
