"""The paired session: one person types, another one sees it, and both agree before it is committed.

Not for: waiting (`waiting.py`), judging (`gates/agreement.py`), or the prompt (`endpoint/session.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backout.change.model import Change, DataClass
from backout.endpoint.emitted import story
from backout.engines.protocol import Database, Pairs, Transaction, Transcribes
from backout.engines.values import Mode, RunRecord, RunState
from backout.errors import Refused, UsageError
from backout.gates.agreement import objection_to
from backout.project.config import Environment
from backout.project.doors import Ask, Intent, Progress, found, refuse_to_answer, silent
from backout.project.identity import Speaker, speaker_of
from backout.project.live import WAITING, Told, read_told
from backout.project.looking import Looking
from backout.project.programs import limits_of_program
from backout.project.so_far import changed, in_words
from backout.project.statements import Spoken
from backout.project.subject import subject_of_run
from backout.project.waiting import Tell, Waiting, paired
from backout.runs.masking import shown_rows
from backout.runs.recorder import Served
from backout.runs.report import RunReport
from backout.sql.libpg_query import without_values

if TYPE_CHECKING:
    from backout.endpoint.prompt import Terminal

_LOOK_S = 0.5


@dataclass(frozen=True)
class Seen:
    """A look at a session: the statements since the last look, what it says of itself, and its row of the journal."""

    statements: Sequence[Mapping[str, Any]]
    told: Told | None
    record: RunRecord


class Sessions(Looking):
    """What two people do at once."""

    def session(
        self, change: Change, on: str, terminal: Terminal, tell: Tell, *, psql: bool = False, rows: int = 10,
        emergency: str | None = None, again: str | None = None, ask: Ask = refuse_to_answer, progress: Progress = silent,
    ) -> RunReport:  # fmt: skip
        """Let a person type at a prompt; committed when they and somebody else agree to what it did.

        `tell` hears how far the agreement is. What the prompt shows of PHI is seen by one whom the policy names.
        """
        from backout.endpoint.session import Prompt, serve_session

        if not change.metadata.session:
            raise UsageError(
                f'"{change.identifier}" is not a session',
                hint="say session = true in its metadata, or `backout run` it",
            )
        environment = self.config.environment(on)
        policy = self._policy_of(environment)
        first = speaker_of(self.config, policy.identity, self._key).name
        private = change.metadata.data is DataClass.PHI
        self._revealed(change, environment, "a session", reveal=True)
        data = change.metadata.data.value
        waiting = Waiting(self._book, policy, environment, first, data, terminal.say, tell)
        prompt = Prompt(
            environment.name, _role(environment), self.config.folder, terminal, psql,
            limits_of_program(change, environment), not private,
        )  # fmt: skip

        def serve(_change: Change, transaction: Transaction, _mode: Mode, number: int) -> Served:
            def look() -> Sequence[tuple[str, str, str, str]]:
                found = paired(transaction).look(number, rows + 1)  # one more, to know whether there are more
                tables = [changed(one, shown_rows(data, sample), rows) for one, sample in found]
                waiting.so_far(tables)
                return in_words(tables, rows)

            with waiting.shown(transaction, number):
                return serve_session(transaction, number, prompt, waiting.ended, look)

        return self.run(
            change, on, serve=serve, waiting=waiting, rows=rows, emergency=emergency, again=again, ask=ask,
            progress=progress,
        )  # fmt: skip

    def agree(
        self, run: str, on: str | None = None, *, no: str | None = None,
        show: Callable[[Told], bool] = lambda _told: True,
    ) -> Spoken:  # fmt: skip
        """Say yes to what a session did, or with `no` why not. `show` shows the rows, and returns whether to go on."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = found(database, number, environment)
            told = read_told(_pairs(database).told(number)) if record.state is RunState.RUNNING else None
            subject = subject_of_run(record, self.config)
        if told is None:
            raise Refused("pair", f'"{record.identifier}" waits for nobody: it is {record.state.value}')
        policy = self._policy_of(environment)
        speaker = self._require_may_speak(speaker_of(self.config, policy.identity, self._key))
        if no is not None:
            return self.statements.refuse(record.identifier, subject, environment.name, told.content or "", no)
        if told.phase != WAITING or told.content is None:
            hint = f"backout watch {record.identifier}"
            raise Refused("pair", f"{told.first} is still at the prompt of {record.identifier}", hint=hint)
        if speaker.name in told.agreed:
            waits = " and ".join(told.waits_for) or "nobody"
            raise Refused("pair", f"{speaker.name} has agreed already: it waits for {waits}", hint="let them agree")
        if not show(told):
            raise Refused("operator", "not agreed: you said no", hint=f'backout agree {run} --no --why "…"')
        return self.statements.agree(record.identifier, subject, environment.name, told.content)

    def watch(self, run: str, on: str | None, see: Callable[[Seen], None]) -> RunRecord:
        """Show a session to `see` until it has ended; as long as that lasts, its watcher is here."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            who = speaker_of(self.config, self._policy_of(environment).identity, self._key).name
            pairs, seen = _pairs(database), 0
            while True:
                record = found(database, number, environment)
                told = read_told(pairs.told(number))
                if told is not None:
                    pairs.watched(number, who)
                lines = _lines(database, number, told, record)
                see(Seen(lines[seen:], told, record))
                seen = len(lines)
                if record.state is not RunState.RUNNING:
                    return record
                sleep(_LOOK_S)

    def _require_may_speak(self, speaker: Speaker) -> Speaker:
        problem = objection_to(speaker.name, self.config.people)
        if problem is not None:
            raise Refused("pair", f"this would not count: {problem}", hint="let somebody of [people] say it")
        return speaker


def _role(environment: Environment) -> str:
    return environment.role or urlsplit(environment.resolved_url()).username or "the login role"


def _pairs(database: Database) -> Pairs:
    if not isinstance(database.journal, Pairs):
        raise Refused("pair", "sessions are for PostgreSQL", hint="backout show shows a run")
    return database.journal


def _lines(database: Database, number: int, told: Told | None, record: RunRecord) -> Sequence[Mapping[str, Any]]:
    """The statements so far; of PHI without values."""
    journal = database.journal
    kept = journal.transcript(number) if isinstance(journal, Transcribes) else ()
    data = told.data if told is not None else record.report.get("data", DataClass.PHI.value)
    lines = story(kept, None).lines
    if data != DataClass.PHI.value:
        return lines
    return [{**one, "statement": without_values(one["statement"])} for one in lines]
