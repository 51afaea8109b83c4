"""What is kept, for how long, and where: rescue tables, backups, the journal itself; and who is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from backout.change.model import Change
from backout.engines.values import (
    JournalState,
    RunRecord,
)
from backout.errors import Refused
from backout.gates.judge import (
    require_hosts,
    require_journal,
    require_ordinary_role,
    require_primary,
)
from backout.integrations.deliver import deliver
from backout.project.announcements import Announced, of_change, of_cleanup, require_channels, told
from backout.project.backups import find_backup, require_replaceable, store_of
from backout.project.deeds import permitted, restamping, restoring
from backout.project.doors import (
    Ask,
    Intent,
    Progress,
    found,
    has_journal,
    hosts_reached,
    operator,
    refuse_to_answer,
    require_rights,
    silent,
)
from backout.project.folder import init_folder
from backout.project.free_text import require_no_value
from backout.project.reading import Reading
from backout.project.retention import require_expired, require_kept
from backout.project.statements import Spoken
from backout.project.subject import Subject, subject_of_run
from backout.recovery.backups.model import Backup


class Keeping(Reading):
    """What makes, keeps and throws away."""

    def expired(self, on: str) -> tuple[RunRecord, ...]:
        """Runs whose rescue has had its time. Without a journal: none."""
        with self._opened(on, Intent.LOOK) as (database, _, _):
            return tuple(database.journal.expired()) if has_journal(database) else ()

    def clean(self, on: str, runs: Sequence[int], backups: Sequence[str] = ()) -> tuple[str, ...]:
        """Tell people, then drop the rescue of these runs and these backups, each of which must have expired.

        Returns notes. Refused, with nothing dropped, for one that has not, and where nobody at all could be told.
        """
        with self._opened(on, Intent.WRITE) as (database, environment, _):
            keep = self._backups(environment)
            due = {one.identifier: one for one in keep.expired()} if backups else {}
            records = {one.number: one for one in database.journal.expired()} if runs else {}
            require_expired(runs, records, backups, due)
            names = [records[number].identifier for number in runs]
            message = of_cleanup(environment.name, names, backups, operator())
            notes = self._herald(environment, Subject("cleanup", "")).before_cleanup(message)
            for number in runs:
                database.journal.drop_rescue(number)
            for identifier in backups:
                keep.delete(due[identifier])
            return notes

    def expired_backups(self, on: str) -> tuple[Backup, ...]:
        """Backups that have had their time, by the database's clock."""
        with self._opened(on, Intent.LOOK) as (_, environment, _):
            return self._backups(environment).expired()

    def retain(self, run: str, until: datetime, why: str, on: str | None = None) -> tuple[RunRecord, Backup | None]:
        """Keep the rescue of a run until then, and the backup that preceded it; why is in the ledger.

        Refused for a time that is not later than what is kept anyway, and where there is nothing left to keep.
        """
        on, number = self._run_named(run, on)
        with self._opened(on, Intent.WRITE) as (database, environment, _):
            record = found(database, number, environment)
            require_kept(record, until, database.clock())
            require_no_value(database.journal, record, why, self.config.phi)
            self.statements.retain(record.identifier, subject_of_run(record, self.config), environment.name, until, why)
            database.journal.retain(number, until)
            backup = record.report.get("backup") or {}
            kept = self._backups(environment).retain(str(backup.get("id")), until)
            return found(database, number, environment), kept

    # -- telling people ------------------------------------------------------------------------------------------------

    def announce(self, change: Change, on: str) -> Announced:
        """Tell those whom the policy names that the change is to run; the receipt is in the ledger.

        A channel counts as told when at least one of its recipients has it; nobody reached at all is no announcement.
        """
        change = self._fitting(change, on)
        with self._opened(on, Intent.LOOK) as (database, environment, _):
            policy = self._policy_of(environment)
            channels = require_channels(self.config, policy, environment.name)
            speaker = self.statements.require_speaker(policy)
            at = database.clock()
            earliest = at + policy.announce.before if policy.announce else None
            receipts = deliver(of_change(change, environment.name, speaker, earliest), channels)
            names = told(receipts)
            if names:
                self.statements.announced(change, environment.name, names, at, [one.as_json() for one in receipts])
            return Announced(receipts, names, at, earliest if names else None, bool(names))

    def backup(self, on: str, *, progress: Progress = silent) -> Backup:
        """Make a backup by the environment's provider, and record it. Refused, with the database as it was, otherwise."""
        with self._opened(on, Intent.LOOK) as (_, environment, _):
            progress("making the backup")
            return self._backups(environment).take(operator())

    def backups(self, on: str) -> tuple[Backup, ...]:
        """The recorded backups of an environment, the newest first; dropped ones too. Asks no database."""
        environment = self.config.environment(on)
        return store_of(self.config, environment).all(environment.name)

    def restore(
        self,
        backup: str,
        to: str,
        *,
        identity: Path | None = None,
        replace_all: bool = False,
        ask: Ask = refuse_to_answer,
        progress: Progress = silent,
    ) -> tuple[Backup, str | None]:
        """Make the database of environment `to` what it was when that backup was made; with a note, if there is one.

        A database that has a journal keeps it; see `engines.dump.Arrival`. Refused into a production database unless its
        policy says otherwise, and over tables unless `replace_all`. Where the environment asks anything of people, only an
        operator may, and the ledger has it; where it asks for approvals, somebody else has approved it, see `approve_restore`.
        """
        found = find_backup(self.config, backup)
        with self._opened(to, Intent.LOOK) as (database, environment, facts):
            stamp = database.journal.stamp()[0] if has_journal(database) else None
            require_replaceable(stamp, environment, environment.policy)
            require_primary(facts, environment.name)
            said = permitted(self._book, self._key, restoring(found.identifier, environment.name, stamp))
            if not ask("restore", f'replace what is in "{environment.name}" ({facts.database}) by {found.identifier}?'):
                raise Refused("operator", "not restored: you said no")
            database.lease(f"restore of {found.identifier}", operator())
            if said is not None:
                self._book.write(said)
            progress("restoring")
            return found, self._backups(environment, identity).restore(found, replace_all=replace_all)

    def approve_restore(self, backup: str, on: str) -> Spoken:
        """Approve that somebody else puts this backup in the place of that environment's database, once."""
        return self.statements.approve_restore(find_backup(self.config, backup).identifier, on)

    def init_folder(self, folder: Path) -> tuple[Path, ...]:
        """Write `backout.toml` and `changes/`; what is there already stays. Returns what was written."""
        return init_folder(folder)

    def init_journal(self, on: str, *, restamp: bool = False, dry_run: bool = False) -> tuple[str, ...]:
        """Make the journal, or with `restamp` tell a restored or cloned database which environment it is now.

        Where what it is or what it becomes asks anything of people, only an operator of these may, and the ledger has it.
        """
        environment = self.config.environment(on)
        with self._way_to(environment), closing(self.open(environment)) as database:
            facts = database.facts()
            require_hosts(hosts_reached(environment, facts), self._policy_of(environment), environment.name)
            require_primary(facts, environment.name)
            require_ordinary_role(facts, database.settings)
            state = database.journal.state()
            require_journal(state)
            if state is JournalState.PRESENT:
                if not restamp:
                    return (f'the journal is there, stamped "{database.journal.stamp()[0]}"',)
                stamped, identity = database.journal.stamp()
                said = permitted(self._book, self._key, restamping(stamped, environment.name, identity))
                if not dry_run:
                    if said is not None:
                        self._book.write(said)
                    database.journal.restamp()
                return (f'stamped "{environment.name}"',)
            require_rights(database)
            if not dry_run:
                database.journal.create()
            return (f'made the journal, stamped "{environment.name}"',)
