"""What the application hung on its tables (triggers, rules), and how an undo keeps it from firing.

Invariant: whatever is switched off here is switched on again, as it was, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.postgres.undo_keyless import KeylessTable
from backout.engines.postgres.undo_work import Way, Work


@dataclass(frozen=True)
class Hooks:
    """What would fire during an undo of some tables, and what this role may do about it."""

    triggers: tuple[tuple[str, str, bool], ...]  # (name, tgenabled, ours to disable)
    rules: tuple[tuple[str, str], ...]  # (name, ev_enabled)
    unchecked: tuple[str, ...]  # constraints that the replica role does not check
    replica: bool  # the role may take the replica role

    @property
    def way(self) -> Way | None:
        """None: there is none. ALWAYS and REPLICA hooks fire in the replica role, too (manual: ALTER TABLE)."""
        enabled = [how for _, how, _ in self.triggers] + [how for _, how in self.rules]
        if self.replica and set(enabled) <= {"O"} and not self.unchecked:
            return Way.REPLICA
        if any(how != "R" for _, how in self.rules):
            return None
        if not self.triggers:
            return Way.PLAIN
        return Way.OWNER if all(ours for _, _, ours in self.triggers) else None

    def obstacle(self, login: str) -> str | None:
        """What stands in the way of an exact undo, and what would remove it, in words; None: nothing."""
        if self.way is not None:
            return None
        names = sorted({f"trigger {quoted(name)}" for name, _, _ in self.triggers})
        names += sorted({f"rule {quoted(name)}" for name, _ in self.rules})
        grant = f"GRANT SET ON PARAMETER session_replication_role TO {quoted(login)}"
        always = any(how != "O" for _, how, _ in self.triggers) or bool(self.unchecked)
        needs = []
        if not self.replica and not always and not any(how == "A" for _, how in self.rules):
            needs.append(grant)
        if not self.rules:
            needs.append("to own the table")
        how = f"it needs {', or '.join(needs)}" if needs else "disable it for the time of the run and of its undo"
        return f"{comma(names)} would fire, and {quoted(login)} may not keep it out ({how})"


def hooks(session: Session, oids: Sequence[str]) -> Hooks:
    """What hangs on the tables, as this session's role may treat it."""
    triggers = session.run(query("user_triggers"), [list(oids)]).rows
    return Hooks(
        tuple((name, enabled, owned) for _, name, enabled, owned in triggers),
        tuple((name, enabled) for name, enabled in session.run(query("user_rules"), [list(oids)]).rows),
        tuple(name for (name,) in session.run(query("unchecked_in_replicas"), [list(oids)]).rows),
        bool(session.value(query("may_set_replica_role"))),
    )


def undo_obstacle(session: Session, oids: Sequence[str]) -> str | None:
    """What stands in the way of an exact undo of these tables; None: nothing."""
    return hooks(session, oids).obstacle(session.value("SELECT session_user::text"))


def keep_triggers_out(work: Work) -> None:
    """Switch off what would fire, in the work's way; lock the tables without a key."""
    # A constraint that is checked at the end only could not become a conflict.
    work.main.run("SET CONSTRAINTS ALL IMMEDIATE", doing="check the constraints")
    if work.way is Way.REPLICA:
        work.main.run("SET LOCAL session_replication_role = replica")
    if work.way is Way.OWNER:
        oids = [table.undo.table.identifier for table in work.tables]
        for oid, trigger, enabled, _ in work.main.run(query("user_triggers"), [oids]).rows:
            name = next(qualified(t.undo.table.name) for t in work.tables if t.undo.table.identifier == oid)
            work.main.run(f"ALTER TABLE {name} DISABLE TRIGGER {quoted(trigger)}", doing=f'disable trigger "{trigger}"')
            work.disabled.append((name, trigger, enabled))
    for table in work.tables:
        if isinstance(table, KeylessTable):
            name = qualified(table.undo.table.name)
            work.main.run(f"LOCK TABLE ONLY {name} IN SHARE ROW EXCLUSIVE MODE", doing=f"lock table {name}")


def let_triggers_in(work: Work) -> None:
    """Back to what was, one trigger at a time: ENABLE TRIGGER USER would turn ALWAYS and REPLICA ones into plain ones."""
    if work.way is Way.REPLICA:
        work.main.run("SET LOCAL session_replication_role = origin")
    if work.disabled:
        work.main.run("SET CONSTRAINTS ALL IMMEDIATE", doing="check the constraints")
    how = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
    for name, trigger, enabled in work.disabled:
        work.main.run(f"ALTER TABLE {name} {how[enabled]} TRIGGER {quoted(trigger)}")
