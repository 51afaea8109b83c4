"""What an account does not see, and what is written there all the same.

information_schema shows a table, a column or a trigger only to who has a right on it. Foreign keys act, and triggers and
routines write, by other rights than this account's (manual, "Information Schema": access; "Stored Routine Privileges").
What is not seen can be neither captured nor put back, so that it is refused. Measured with 10.11.19: a cascade into a
database on which the account has no right; INNODB_SYS_FOREIGN shows that foreign key to who has PROCESS.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from backout.engines.mariadb import catalogue
from backout.engines.mariadb.names import decoded, qualified, quoted
from backout.engines.mariadb.rights import Grant, covers
from backout.engines.mariadb.session import Session
from backout.engines.values import TableName
from backout.errors import DatabaseFailed, Refused
from backout.sql.mariadb_facts import Scope, judge
from backout.sql.mariadb_names import Name
from backout.sql.source import Source
from backout.sql.tokens import Token


def require_relatives(session: Session, names: Collection[TableName]) -> None:
    """Raise Refused where a foreign key ties one of the tables to one that this account does not see."""
    if not names:
        return
    rows = session.rows(
        f"SELECT {decoded('FOR_NAME')}, {decoded('REF_NAME')} FROM information_schema.INNODB_SYS_FOREIGN"
    )
    pairs = [(TableName(str(row[0]), str(row[1])), TableName(str(row[2]), str(row[3]))) for row in rows]
    others = {child if parent in names else parent for child, parent in pairs if child in names or parent in names}
    for name in sorted(others - {relation.name for relation in catalogue.relations(session, others)}):
        raise Refused(
            "capture", f"table {name} is tied to one that the change writes by a foreign key, and this account cannot see it",
            hint=f"GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON {qualified(name)} to this account",
        )  # fmt: skip


def require_seen_whole(session: Session, grants: Sequence[Grant], name: TableName) -> None:
    """Raise Refused unless all columns of the table, and its triggers, are seen."""
    try:
        session.run(f"SELECT * FROM {qualified(name)} LIMIT 0")
    except DatabaseFailed as error:
        if error.sqlstate not in ("1142", "1143"):
            raise
        raise Refused("capture", f"this account may not read every column of table {name}",
                      hint=f"GRANT SELECT ON {qualified(name)} to this account") from None  # fmt: skip
    if not covers(grants, "TRIGGER", name):
        raise Refused("capture", f"this account does not see the triggers of table {name}",
                      hint=f"GRANT TRIGGER ON {qualified(name)} to this account")  # fmt: skip


def written_names(tokens: Sequence[Token]) -> frozenset[Name]:
    """The tables that the statements inside of a body of a routine write; aliases are left out."""
    found: set[Name] = set()
    for start, token in enumerate(tokens):
        after_word = start and tokens[start - 1].is_word("KEY", "FOR", "ON")  # ON DUPLICATE KEY UPDATE, FOR UPDATE
        if not token.is_word("INSERT", "REPLACE", "UPDATE", "DELETE") or after_word:
            continue
        end = next((i for i in range(start, len(tokens)) if tokens[i].text == ";"), len(tokens))
        statement = tokens[start:end]
        targets = {(one.schema, one.table) for one in judge(Source("", "body"), statement, Scope()).targets}
        inserts = token.is_word("INSERT", "REPLACE")  # nothing is renamed there
        found |= {name for name in targets if inserts or not _is_alias(statement, name, targets)}
    return frozenset(found)


def temporary_names(tokens: Sequence[Token]) -> frozenset[str]:
    """The temporary tables that a body makes."""
    found = set()
    for index, token in enumerate(tokens[1:], 1):
        if token.is_word("TABLE") and tokens[index - 1].is_word("TEMPORARY"):
            rest = [one for one in tokens[index + 1 : index + 5] if not one.is_word("IF", "NOT", "EXISTS")]
            found |= {rest[0].name} if rest and rest[0].name is not None else set()
    return frozenset(found)


def _is_alias(statement: Sequence[Token], name: Name, targets: Collection[Name]) -> bool:
    """Whether the statement gives that name to another table: after AS, a parenthesis or the name of a target."""
    others = {table for _, table in targets} - {name[1]}
    return name[0] is None and any(
        token.name == name[1] and (before.is_word("AS") or before.text == ")" or before.name in others)
        for before, token in pairwise(statement)
    )


def is_hidden(session: Session, name: TableName) -> bool:
    """Whether a temporary table of this session stands before the table of that name: what is read is not that table.

    SHOW CREATE TABLE says so; information_schema does not know temporary tables (manual, "CREATE TEMPORARY TABLE").
    """
    try:
        row = session.one(f"SHOW CREATE TABLE {quoted(name.schema)}.{quoted(name.name)}")
    except DatabaseFailed:
        return False
    return str(row[1]).startswith("CREATE TEMPORARY TABLE")
