"""The change's statements, one by one: read, followed to all that they can write, run, and remembered for the capture.

The great danger here is a statement that commits by itself. What could is refused before it runs (`sql/`, `closure.py`).
Source: manual, "SQL statements That Cause an Implicit Commit".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from backout.engines.mariadb import visible
from backout.engines.mariadb.closure import Reach
from backout.engines.mariadb.quick import PlainWrite, plain_write
from backout.engines.mariadb.session import Answer, Parameters, Session, bound
from backout.engines.values import TableName
from backout.errors import BackoutError, Busy, DatabaseFailed, Refused
from backout.sql.mariadb import tokens_of
from backout.sql.mariadb_facts import Scope, judge
from backout.sql.mariadb_names import Name, all_names, functions_of, name_at
from backout.sql.model import Kind, WriteTarget
from backout.sql.pieces import Facts
from backout.sql.source import Source
from backout.sql.tokens import Token

if TYPE_CHECKING:
    from backout.engines.mariadb.capture import Pair
    from backout.engines.mariadb.completeness import Counter

_SAVEPOINT = re.compile(r"\s*(SAVEPOINT|RELEASE\s+SAVEPOINT|ROLLBACK(\s+WORK)?\s+TO)\b", re.IGNORECASE)


class Statements:
    """What a change has said so far.

    `reach`: what that can have written. `plain`: one for each statement that may have written, None where it is not plain.
    `own_rows`: rows that the server counts and that are no table's, but temporary tables'.
    """

    def __init__(self, pair: Pair, counter: Counter) -> None:
        self._main, self._aux, self._control = pair.main, pair.aux, pair.control
        self._counter = counter
        self._database = pair.control.address.database
        self._scope = Scope()
        self.reach = Reach(pair.control, self._database, frozenset({"backout", pair.rescue}))
        self.plain: list[PlainWrite | None] = []
        self.own_rows = 0

    def run(self, statement: str, parameters: Parameters) -> Answer:
        """Raises Refused, and nothing is run, for what may not run; DatabaseFailed, Busy, Interrupted for what fails."""
        if _SAVEPOINT.match(statement):
            self.plain.append(None)
            return self._main.run(statement)
        tokens = tokens_of(statement)
        facts = judge(Source(statement, "statement"), tokens, self._scope)
        if facts.objection is not None:
            raise Refused("statement", facts.objection.reason, state="rolled back", hint=facts.objection.hint)
        targets = [name for one in facts.targets if (name := self._written(one)) is not None]
        self.reach.add(targets, all_names(tokens), self._scope.temporary)
        self._require_known(tokens)
        temporary = facts.kind is Kind.TEMPORARY or (facts.targets and not targets)
        before = self._counter.rows_modified(self._main) if temporary else 0
        self._remember(statement, parameters, facts)
        answer = self._run(statement, parameters, call=tokens[0].is_word("CALL"))
        if temporary:
            self.own_rows += self._counter.rows_modified(self._main) - before
        return answer

    def _written(self, target: WriteTarget) -> Name | None:
        """The table that is written, or None for a temporary one: a routine may have dropped it, so the server is asked."""
        if target.schema != "temp":
            return target.schema, target.table
        bare = TableName(self._database, target.table)
        return None if visible.is_hidden(self._main, bare) else (None, target.table)

    def _require_known(self, tokens: Sequence[Token]) -> None:
        """A routine that the catalogue does not show as one (of a package, say) could write anything."""
        name = name_at(tokens, 1) if tokens[0].is_word("CALL") else None
        called: list[Name] = [name] if name is not None else []
        called += [
            (first, second) for first, dot, second in (one.partition(".") for one in functions_of(tokens)) if dot
        ]
        unknown = self.reach.unknown_routines(called)
        if unknown:
            raise Refused(
                "capture", f'"{unknown[0]}" is no procedure or function that this account can look into',
                hint="grant EXECUTE on it, and SELECT ON mysql.proc, to this account; or write plain statements",
            )  # fmt: skip

    def _remember(self, statement: str, parameters: Parameters, facts: Facts) -> None:
        if facts.kind is not Kind.READ or facts.functions:
            text = bound(statement, parameters) if parameters else statement
            self.plain.append(plain_write(text, self._database) if facts.targets else None)

    def _run(self, statement: str, parameters: Parameters, *, call: bool) -> Answer:
        """A procedure can commit and begin anew, and the flag is as before: a savepoint does not survive that."""
        if call:
            self._main.run("SAVEPOINT backout_call")
        try:
            answer = self._main.run(statement, parameters, doing="run the statement")
        except Busy as error:
            raise _explained(error, self._control, (self._main, self._aux, self._control)) from None
        if call:
            try:
                self._main.run("RELEASE SAVEPOINT backout_call")
            except DatabaseFailed:
                raise DatabaseFailed(
                    "the procedure has ended the transaction: what the change wrote before is committed",
                    state="partly committed: look at the tables that the change names",
                    hint="take COMMIT out of the procedure",
                ) from None
        return answer


def require_followed(control: Session, rescue: str, text: str) -> None:
    """Raise DatabaseFailed where a run would refuse the statement for the tables that it can write; nothing is run."""
    tokens = tokens_of(text)
    facts = judge(Source(text, "statement"), tokens, Scope())
    reach = Reach(control, control.address.database, frozenset({"backout", rescue}))
    try:
        reach.add([(one.schema, one.table) for one in facts.targets], all_names(tokens))
    except Refused as error:
        raise DatabaseFailed(error.message, state=error.state, hint=error.hint) from None


def _explained(error: Busy, control: Session, ours: Sequence[Session]) -> Busy:
    """Who holds the lock, where the server tells (information_schema.INNODB_LOCK_WAITS is empty by now)."""
    rows: Sequence[tuple[Any, ...]] = ()
    with suppress(BackoutError):
        rows = control.rows(
            "SELECT t.trx_mysql_thread_id, COALESCE(p.USER, '?'), COALESCE(p.COMMAND, '?'), "
            "TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) FROM information_schema.INNODB_TRX t "
            "LEFT JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id "
            f"WHERE t.trx_mysql_thread_id NOT IN ({', '.join(str(one.number) for one in ours)}, 0) "
            "ORDER BY t.trx_started LIMIT 1"
        )
    for number, user, command, age in rows:
        error.message += f" (the oldest other transaction: session {number} of {user}, {command.lower()}, {age} s)"
        error.args = (error.message,)
    return error
