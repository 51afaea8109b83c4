"""Which tables a statement can write: those that it names, and what cascades, triggers, views and routines can reach.

By names alone, and rather too many than too few: every identifier in a body that is a table's name counts as written.
What cannot be followed is refused before anything runs: other storage engines than InnoDB, which commit row by row,
bodies that cannot be read, and bodies that end the transaction or run text.
Source: MariaDB manual, "Foreign Keys" (cascades fire no triggers), "Trigger Overview", "Stored Routine Privileges".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from backout.engines.mariadb import catalogue, visible
from backout.engines.mariadb.rights import Grant, grants_of
from backout.engines.mariadb.session import Session
from backout.engines.values import TableName
from backout.errors import InvalidFile, Refused
from backout.sql.mariadb import tokens_of
from backout.sql.mariadb_names import Name, all_names, tables_of
from backout.sql.mariadb_objections import OWN_SCHEMAS, body_objection

_ENGINE = "InnoDB"


@dataclass
class Reach:
    """What the statements so far can write; it only grows."""

    session: Session
    database: str  # what bare names are looked up in
    own: frozenset[str] = OWN_SCHEMAS
    tables: dict[TableName, catalogue.Relation] = field(default_factory=dict)
    _seen: set[TableName] = field(default_factory=set)  # names of tables that were followed
    _read: set[TableName] = field(default_factory=set)  # views that were followed for the routines in them
    _routines: set[TableName] = field(default_factory=set)
    _written: set[TableName] = field(default_factory=set)  # of those, what some statement surely writes
    _temporary: set[str] = field(default_factory=set)  # that the change or a routine makes
    _grants: list[Grant] = field(default_factory=list)

    def add(self, targets: Iterable[Name], named: Iterable[Name], temporary: Iterable[str] = ()) -> None:
        """Follow a statement: the tables that it writes, and all names in it. Raises Refused, nothing written."""
        self._temporary |= {*temporary}
        written = self._qualified(targets, self.database)
        self._add_tables(written, written, by="the change")
        names = self._qualified(named, self.database)
        self._add_routines(names)
        self._add_views_read(names)

    def unknown_routines(self, names: Iterable[Name]) -> list[str]:
        """Those of the names that are no routines, as far as this account sees."""
        wanted = self._qualified(names, self.database)
        known = {(name.schema, name.name.lower()) for name in catalogue.routine_bodies(self.session, wanted)}
        return [str(name) for name in sorted(wanted) if (name.schema, name.name.lower()) not in known]

    def add_routines_of(self, text: str) -> None:
        """Follow the functions that a query calls."""
        names = self._qualified(all_names(tokens_of(text)), self.database)
        self._add_routines(names)
        self._add_views_read(names)

    def _qualified(self, names: Iterable[Name], database: str) -> set[TableName]:
        return {TableName(schema if schema is not None else database, name) for schema, name in names}

    def _add_tables(self, names: Collection[TableName], written: Collection[TableName], by: str) -> None:
        """Follow tables, views and their triggers; those of them that are surely written must be seen whole."""
        new = (set(names) - self._seen) | (set(written) - self._written)
        self._seen |= new
        self._written |= {*written}
        writes = {self.session.folded(name) for name in written}
        bases = set()
        for relation in catalogue.relations(self.session, new):
            is_written = self.session.folded(relation.name) in writes
            if relation.kind == "VIEW":
                self._add_view(relation.name, is_written=is_written)
            elif relation.kind == "SEQUENCE" and is_written:
                raise _refused(f"{by} writes the sequence {relation.name}, which no ROLLBACK takes back", _NEXT)
            elif relation.kind != "SEQUENCE":
                self._require_followed(relation, by)
                self.tables[relation.name] = relation
                bases.add(relation.name)
        self._add_triggers(bases)
        children = catalogue.cascade_closure(self.session, bases)
        visible.require_relatives(self.session, bases | children)
        for relation in catalogue.relations(self.session, children - set(self.tables)):
            self._require_followed(relation, f"a cascade from {by}")
            self.tables[relation.name] = relation  # not in `_seen`: cascades fire no triggers, but a statement may come

    def _add_view(self, name: TableName, *, is_written: bool) -> None:
        body = catalogue.view_body(self.session, name)
        if not body:
            raise _refused(f"the definition of view {name} cannot be read", _SHOW_VIEW)
        self._add_body(body, name.schema, f"view {name}", written=tables_of(tokens_of(body)) if is_written else ())

    def _add_triggers(self, bases: Collection[TableName]) -> None:
        for trigger in catalogue.triggers_on(self.session, bases):
            self._add_body(trigger.body, trigger.schema, f'trigger "{trigger.name}" on {trigger.table}')

    def _add_body(self, body: str, database: str, what: str, written: Iterable[Name] = ()) -> None:
        if body == catalogue.BACKSLASHES:
            raise _refused(f"{what} was made under NO_BACKSLASH_ESCAPES and contains a backslash: where its texts end "
                           "cannot be told", "make it anew without that mode")  # fmt: skip
        try:
            tokens = tokens_of(body)
        except InvalidFile as error:
            raise _refused(f"the body of {what} cannot be read: {error.message}", _PLAIN) from None
        objection = body_objection(tokens)
        if objection is not None:
            raise _refused(f"{what} contains {objection}", _PLAIN)
        names = self._qualified(all_names(tokens), database)
        self._require_not_own(names, what)
        self._temporary |= visible.temporary_names(tokens)
        writes = {name for name in (*written, *visible.written_names(tokens)) if not self._is_temporary(name)}
        targets = self._qualified(writes, database)
        self._require_visible(targets, what)
        self._add_tables(names, targets, by=what)
        self._add_routines(names)

    def _is_temporary(self, name: Name) -> bool:
        return name[0] is None and name[1] in self._temporary

    def _require_visible(self, written: Collection[TableName], what: str) -> None:
        """A routine writes with its definer's rights: also tables of which this account is shown nothing."""
        there = {self.session.folded(one.name) for one in catalogue.relations(self.session, written)}
        missing = sorted(name for name in written if self.session.folded(name) not in there)
        if missing:
            raise _refused(f"{what} writes {missing[0]}, which is not there, or not for this account to see", _SEE)

    def _add_routines(self, names: Collection[TableName]) -> None:
        new = set(names) - self._routines
        self._routines |= new
        for name, body in catalogue.routine_bodies(self.session, new).items():
            if body is None:
                raise _refused(
                    f"the body of routine {name} cannot be read", "GRANT SELECT ON mysql.proc to this account"
                )
            self._add_body(body, name.schema, f"routine {name}")

    def _add_views_read(self, names: Collection[TableName]) -> None:
        """A view that is only read can still call a function that writes."""
        new = set(names) - self._read - self._seen
        self._read |= new
        for relation in catalogue.relations(self.session, new):
            if relation.kind == "VIEW" and (body := catalogue.view_body(self.session, relation.name)):
                inner = self._qualified(all_names(tokens_of(body)), relation.name.schema)
                self._add_routines(inner)
                self._add_views_read(inner)

    def _require_followed(self, relation: catalogue.Relation, by: str) -> None:
        if relation.kind == "SYSTEM VERSIONED":
            raise _refused(f"table {relation.name}, written by {by}, is system-versioned: its history cannot be put back",
                           "change it outside of backout")  # fmt: skip
        if relation.engine != _ENGINE:
            raise _refused(
                f'table {relation.name}, written by {by}, is stored by engine "{relation.engine}", which cannot roll back',
                f"ALTER TABLE {relation.name} ENGINE=InnoDB, in a schema migration",
            )
        self._grants = self._grants or grants_of(self.session)
        visible.require_seen_whole(self.session, self._grants, relation.name)

    def _require_not_own(self, names: Collection[TableName], what: str) -> None:
        own = sorted(name for name in names if name.schema in self.own)
        if own:
            raise _refused(f"{what} names {own[0]}, which is backout's own", "change that routine")


def _refused(message: str, hint: str) -> Refused:
    return Refused("capture", message, hint=hint)


_PLAIN = "write the change with plain INSERT, UPDATE and DELETE"
_SHOW_VIEW = "grant SHOW VIEW on it to this account"
_SEE = "GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER on it to this account; make a temporary table before the call"
_NEXT = "take numbers with NEXT VALUE FOR, and set the sequence by hand"
