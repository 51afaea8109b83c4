"""Runs: there, back again, and on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from backout.change.bind import bind
from backout.change.model import Change, DataClass
from backout.change.subset import subset_of
from backout.engines.batches import Batched, Wanted, in_batches
from backout.engines.protocol import Database
from backout.engines.values import (
    Mode,
    Resolution,
    RunRecord,
    RunStart,
)
from backout.errors import BackoutError, Refused, UsageError
from backout.gates.certificate import GHOST_UNDO, SESSION
from backout.gates.judge import (
    require_room,
)
from backout.gates.repetition import require_first, require_none_stands
from backout.gates.verdicts import GATES_OF_UNDO
from backout.project.announcements import of_emergency
from backout.project.attestations import with_note
from backout.project.batches import limits_of, require_resumable, require_same, tell
from backout.project.certificates import certificate_of_run, keep
from backout.project.config import Environment
from backout.project.doors import (
    Ask,
    Intent,
    Progress,
    found,
    operator,
    refuse_to_answer,
    require_private_place,
    silent,
)
from backout.project.identity import speaker_of
from backout.project.permission import Gatekeeper, Wish
from backout.project.permit import Permit
from backout.project.programs import command_of, require_held_back, require_no_session, require_nobody_approves
from backout.project.reading import Reading, require_readable
from backout.project.subject import binding_of, named, subject_of_run
from backout.project.waiting import Waiting
from backout.recovery.backups.model import as_json as backup_as_json
from backout.recovery.plan import UndoPolicy
from backout.recovery.proof import Tightness
from backout.runs.as_json import PROVEN
from backout.runs.changes import ChangeRun
from backout.runs.either import run_as_written, undo_as_run
from backout.runs.recorder import Serve, ServeTurns
from backout.runs.rehearsal import Pause, Rehearsal, nobody_looks, rehearse
from backout.runs.report import RunReport
from backout.runs.undos import UndoRun

ALL = 100_000  # runs of one change: all that there are


class Running(Reading):
    """What writes: a change, its rehearsal, its undo, its batches."""

    def ghost(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        undo: bool = False,
        subset: str | None = None,
        rows: int = 10,
        reveal: bool = False,
        serve: Serve | None = None,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """All of it, then rolled back. With `undo` the way back is taken too, and the end compared with the start.

        `reveal` shows rows that are PHI as they are; the run's record says so. Else they are masked. `serve` is who does
        it in place of a program's own command.
        `subset` ("50 rows", "id <= 100") limits the statements that declare `@subset` to some values of its key.
        """
        change = self._fitting(change, on)
        require_no_session(change, on)
        require_readable(change, self.config)
        environment = self.config.environment(on)
        require_held_back(change, environment)
        run = self._change_run(change, environment, Mode.GHOST, parameters, rows, progress)
        run = replace(run, subset=subset_of(change, subset) if subset is not None else None)
        if undo and self._policy_of(environment).accept_ghost_undo:
            self.statements.require_speaker()
        with self._opened(on, Intent.GHOST, ask) as (database, _, facts):
            require_private_place(change.metadata.data.value, facts)
            self._revealed(change, environment, "a ghost run", reveal=reveal)
            run = replace(run, prove_way_back=undo, reveal=reveal, serve=serve or run.serve)
            report = run_as_written(database, lambda: self.open(environment), run)
            # Of a subset it says nothing of the whole, and of what somebody else did in its place nothing at all.
            is_proof = report.way_back == PROVEN and report.subset is None and serve is None
            if is_proof and self._policy_of(environment).accept_ghost_undo:
                binding = binding_of(change, run.values)
                certificate = certificate_of_run(database, report, operator(), GHOST_UNDO, binding)
                keep(database, certificate)
                self.statements.certify(change, certificate)
            return report

    def run(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        subset: str | None = None,
        rows: int = 10,
        reveal: bool = False,
        emergency: str | None = None,
        again: str | None = None,
        serve: Serve | None = None,
        waiting: Waiting | None = None,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """The change, committed when all of it is captured and proven; else rolled back, with an error saying why.

        `emergency` is why it cannot wait for people: the policy names who may say that, and it owes a review. `serve` is
        who does it in place of a program's own command; `waiting` waits for the people of a session, see `Sessions.session`.
        """
        change = self._as_written(self._fitting(change, on), on)
        environment = self.config.environment(on)
        if waiting is None:
            require_no_session(change, on)
        elif not change.metadata.session:
            raise UsageError(
                "`waiting` is for a session", hint="what is approved as a text waits for nobody at its end"
            )
        else:
            self._require_own(waiting, environment)
        if serve is not None and waiting is None:
            require_nobody_approves(self._policy_of(environment), on)
        require_readable(change, self.config)
        run = self._change_run(change, environment, Mode.REAL, parameters, rows, progress)
        run = replace(run, serve=serve or run.serve, agree=waiting.agree if waiting is not None else run.agree)
        run = replace(run, subset=subset_of(change, subset) if subset is not None else None)
        with (
            self._opened(on, Intent.WRITE, ask) as (database, _, facts),
            self._permitted(
                database, environment, facts, change, run.values, emergency, is_subset=subset is not None
            ) as permit,
        ):
            require_private_place(change.metadata.data.value, facts)
            if subset is None:
                require_first(change, database.journal.runs(ALL, change.identifier), again)
            self._revealed(change, environment, "a run", reveal=reveal)
            require_room(_needed_bytes(database, change), facts)
            if not ask("run", f'run "{change.identifier}" on {environment.name} ({facts.product} {facts.database})?'):
                raise Refused("operator", "not run: you said no")
            permit.claim()
            database.lease(change.identifier, operator())
            if subset is None:  # once more: nobody else can run it any more, and somebody may have meanwhile
                require_first(change, database.journal.runs(ALL, change.identifier), again)
            progress("looking for the backup")
            backup = self._backups(environment).required(
                operator(), private=change.metadata.data is DataClass.PHI, of_any_age=emergency is not None
            )
            start = replace(run.start, authority=permit.authority)
            backed = backup_as_json(backup) if backup else None
            run = replace(run, start=start, backup=backed, reveal=reveal, again=again)
            herald = self._herald(environment, named(change))
            who = permit.person(operator())
            with herald.crying(of_emergency(change, environment.name, who) if emergency else None):
                permit.begins()
                report = permit.ended(run_as_written(database, lambda: self.open(environment), run))
                report = self._agreed(database, change, environment, report)
            return herald.done(with_note(self.config, report), who)

    def _require_own(self, waiting: Waiting, environment: Environment) -> None:
        """Who waits for people is this project's own, by this environment's policy: nobody says yes in their place."""
        policy = self._policy_of(environment)
        first = speaker_of(self.config, policy.identity, self._key).name
        asked = (waiting.book, waiting.policy, waiting.environment, waiting.first) if type(waiting) is Waiting else ()
        if not asked or asked[0] is not self._book or asked[1:] != (policy, environment, first):
            raise UsageError("a session waits for people by the project that runs it", hint="call `session`")

    def _agreed(self, database: Database, change: Change, environment: Environment, report: RunReport) -> RunReport:
        """What a session did there is to the environments above what a rehearsal is; it is committed already."""
        if report.agreement is None or not self._certifies(environment):
            return report
        try:
            certificate = certificate_of_run(database, report, operator(), SESSION)
            keep(database, certificate)
            self.statements.certify(change, certificate)
        except BackoutError as error:
            return replace(report, notes=(*report.notes, f"no certificate for the environments above: {error.message}"))
        return report

    def rehearse(
        self,
        change: Change,
        on: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        reapply: bool = False,
        rows: int = 10,
        ask: Ask = refuse_to_answer,
        pause: Pause = nobody_looks,
        progress: Progress = silent,
    ) -> Rehearsal:
        """The whole way there and back, compared; put back at the end, or with `reapply` applied once more."""
        change = self._as_written(self._fitting(change, on), on)
        require_no_session(change, on)
        require_readable(change, self.config)
        environment = self.config.environment(on)
        run = self._change_run(change, environment, Mode.REAL, parameters, rows, progress)
        if self._certifies(environment):
            self.statements.require_speaker()
        with (
            self._opened(on, Intent.WRITE, ask) as (database, _, facts),
            self._permitted(database, environment, facts, change, run.values, None) as permit,
        ):
            require_private_place(change.metadata.data.value, facts)
            if reapply:  # what it leaves is a run like any other
                require_none_stands(change, database.journal.runs(ALL, change.identifier))
            require_room(_needed_bytes(database, change), facts)
            if not ask("rehearse", f'rehearse "{change.identifier}" on {environment.name} ({facts.database})?'):
                raise Refused("operator", "not rehearsed: you said no")
            permit.claim()
            database.lease(f"rehearsal of {change.identifier}", operator())
            progress("looking for the backup")
            backup = self._backups(environment).required(operator(), private=change.metadata.data is DataClass.PHI)
            start = replace(run.start, authority=permit.authority)
            run = replace(run, start=start, backup=backup_as_json(backup) if backup else None)
            permit.begins()
            rehearsal = rehearse(database, lambda: self.open(environment), run, reapply=reapply, pause=pause)
            rehearsal = replace(rehearsal, run=with_note(self.config, permit.ended(rehearsal.run)))
            if rehearsal.reapplied is not None:
                who, herald = permit.person(operator()), self._herald(environment, named(change))
                rehearsal = replace(rehearsal, reapplied=herald.done(permit.ended(rehearsal.reapplied), who))
            if rehearsal.certificate is not None:
                keep(database, rehearsal.certificate)
            if rehearsal.certificate is not None and self._certifies(environment):
                spoken = self.statements.certify(change, rehearsal.certificate)
                if spoken.signed.signature is not None:
                    signed = replace(rehearsal.certificate, person=spoken.person)
                    rehearsal = replace(rehearsal, certificate=signed)
            return rehearsal

    def _certifies(self, environment: Environment) -> bool:
        """Whether a certificate of this environment is of use to another one, or to this one."""
        return any(
            environment.name in one.policy.after or (one.policy.accept_ghost_undo and one.name == environment.name)
            for one in self.config.environments.values()
        )

    def _revealed(self, change: Change, environment: Environment, what: str, *, reveal: bool) -> None:
        """Whoever wants to see PHI is one whom the policy names; said before anything is run."""
        if reveal and change.metadata.data is DataClass.PHI:
            subject = named(change)
            self.statements.reveal(f"{what} that is to begin", subject, environment.name, kept=False)

    def _change_run(
        self, change: Change, environment: Environment, mode: Mode, parameters: Mapping[str, Any] | None, rows: int,
        progress: Progress,
    ) -> ChangeRun:  # fmt: skip
        known = {name: value for name, value in environment.parameters.items() if name in change.metadata.declarations}
        values = bind(change, {**known, **(parameters or {})}, environment.name)
        start = RunStart(
            change.identifier, change.digest, change.metadata.title, mode, environment.name, operator(),
            keep_days=environment.keep_days,
        )  # fmt: skip
        return ChangeRun(
            change, values, mode, start, self._policy(), progress, rows,
            Tightness[environment.min_proof.upper()], snapshot=environment.isolation == "repeatable read",
            limits=limits_of(environment),
            serve=self._serving(change, environment) if change.language == "program" else None,
            serve_turns=self._serving_turns(change, environment) if change.language == "program" else None,
            tracking=self.config.tracking_folder,
            quiet_hours=environment.quiet_hours,
        )  # fmt: skip

    def _serving(self, change: Change, environment: Environment) -> Serve:
        """What lets the change's own program do it, through the endpoint, in the project's folder."""
        from backout.endpoint.serve import serve

        command = command_of(change, environment, self.config.folder)
        return lambda change, transaction, mode, number: serve(change, transaction, mode, number, command)

    def _serving_turns(self, change: Change, environment: Environment) -> ServeTurns:
        """The same in batches, which the program asks for."""
        from backout.endpoint.serve_turns import serve_turns

        command = command_of(change, environment, self.config.folder)
        return lambda change, lends, turns, mode, number: serve_turns(change, lends, turns, mode, number, command)

    def _policy(self) -> UndoPolicy:
        return UndoPolicy(self.config.append_only, self.config.bookkeeping, self.config.tables)

    def undo(
        self,
        run: str,
        on: str | None = None,
        *,
        partial: bool = False,
        overwrite: Collection[int] = (),
        batch: int | None = None,
        ghost: bool = False,
        rows: int = 10,
        emergency: str | None = None,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """Put back what a run changed. Raises Conflicts where others changed rows since and nothing says what to do.

        `overwrite` takes the numbers of the last list of conflicts, and only while that list is still true. `batch` is
        the one batch to put back, of a run in batches.
        """
        on, number = self._run_named(run, on)
        with (
            self._opened(on, Intent.GHOST if ghost else Intent.WRITE, ask) as (database, environment, facts),
            ExitStack() as stack,
        ):
            record = found(database, number, environment)
            require_private_place(str(record.report.get("data")), facts)
            permit = Permit()
            if not ghost:
                wants_more = bool(overwrite) or record.start.mode is Mode.UNDO
                wish = Wish(
                    subject_of_run(record, self.config), emergency, record.identifier if wants_more else None,
                    GATES_OF_UNDO,
                )  # fmt: skip
                place = self._place(database, environment, facts)
                permit = stack.enter_context(Gatekeeper(self._book, self._key).permitted(place, wish))
            if not ghost and not ask("undo", f'undo "{record.identifier}" ({record.start.title})?'):
                raise Refused("operator", "not undone: you said no")
            permit.claim()
            database.lease(f"undo of {record.identifier}", operator())
            start = replace(
                record.start, mode=Mode.UNDO, operator=operator(), undo_of=number, keep_days=environment.keep_days,
                authority=permit.authority,
            )  # fmt: skip
            seen = _last_seen(database, number) if overwrite else None
            resolution = Resolution(partial, frozenset(overwrite), seen)
            work = UndoRun(record, resolution, start, self._policy(), progress, rows, ghost)
            permit.begins()
            report = permit.ended(undo_as_run(database, lambda: self.open(environment), work, batch))
            if ghost:
                return report
            herald = self._herald(environment, subject_of_run(record, self.config))
            return herald.done(report, permit.person(operator()))

    def resume(
        self,
        run: str,
        on: str | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        rows: int = 10,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> RunReport:
        """Go on with a run in batches, behind the last one that is committed; the change must be what it was."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.WRITE, ask) as (database, environment, facts):
            record = found(database, number, environment)
            batched = require_resumable(database, record)
            change = self._as_written(self._fitting(self.change(record.start.change), on), on)
            going = self._change_run(change, environment, Mode.REAL, parameters, rows, progress)
            require_same(record, going, batched)
            require_private_place(change.metadata.data.value, facts)
            with self._permitted(database, environment, facts, change, going.values, None) as permit:
                if not ask("resume", f'resume "{record.identifier}" ({record.start.title})?'):
                    raise Refused("operator", "not resumed: you said no")
                permit.claim()
                database.lease(f"resumed {record.identifier}", operator())
                start = replace(record.start, authority=permit.authority)
                going = replace(going, start=start, again=record.report.get("again"))
                permit.begins()
                report = permit.ended(run_as_written(database, lambda: self.open(environment), going, resume=number))
            herald = self._herald(environment, named(change))
            return herald.done(with_note(self.config, report), permit.person(operator()))

    def batched(self, run: str, on: str | None = None) -> tuple[RunRecord, Batched | None]:
        """A run, and how far its batches are; None: it was one transaction."""
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            record = found(database, number, environment)
            return record, in_batches(database).batch_journal.batched(number) if database.capabilities.batches else None

    def pause(self, run: str, on: str | None = None) -> str:
        """Have a run in batches end after the batch at hand; it can be resumed. Returns what that means, in words."""
        return self._tell(run, on, Wanted.PAUSE)

    def cancel(self, run: str, on: str | None = None) -> str:
        """Have a run in batches end after the batch at hand, for good. Returns what that means, in words."""
        return self._tell(run, on, Wanted.CANCEL)

    def _tell(self, run: str, on: str | None, wanted: Wanted) -> str:
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.WRITE) as (database, environment, _):
            return tell(database, found(database, number, environment), wanted)


def _needed_bytes(database: Database, change: Change) -> int:
    """What the last ghost run of this very change took; 0 where there was none."""
    for record in database.journal.runs(100):
        is_whole = record.start.mode is Mode.GHOST and not record.report.get("subset")
        if record.start.digest == change.digest and is_whole:
            rescue, log = record.report.get("rescue_bytes"), record.report.get("log_bytes")
            return int(rescue or 0) + int(log or 0)
    return 0


def _last_seen(database: Database, number: int) -> str | None:
    """The fingerprint of the conflicts that the last undo of this run listed."""
    for record in database.journal.runs(1000):
        if record.start.undo_of == number and record.report.get("conflicts_seen"):
            return str(record.report["conflicts_seen"])
    return None
