"""How far runs are validated: what `log`, `show`, `status`, `report` and a run's own notes say of people who looked.

Not for: counting them (`gates/attestation.py`). Invariant: it only reads; a ledger that cannot be read validates nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from backout.engines.values import Mode, RunRecord, RunState
from backout.errors import BackoutError
from backout.gates.attestation import Ran, Validation, validation_of
from backout.gates.evidence import Said
from backout.gates.policy import SSH, Policy
from backout.project.book import Book
from backout.project.config import Config
from backout.project.subject import subject_of_run
from backout.runs.report import RunReport


def wanted_on(config: Config, environment: str) -> int:
    """How many people must attest a run there: its own policy says so, and those of the environments above it."""
    return max(one.attest for one in _concerned(config, environment))


def _concerned(config: Config, environment: str) -> tuple[Policy, ...]:
    above = (one.policy for one in config.environments.values() if environment in one.policy.after)
    return config.policy_for(environment), *above


def _is_signed(config: Config, environment: str) -> bool:
    return any(one.identity == SSH for one in _concerned(config, environment))


def is_looked_at(record: RunRecord) -> bool:
    """Whether there is anything to look at: a run of a change that committed, as a whole or in batches."""
    return record.start.mode is Mode.REAL and (record.state is RunState.COMMITTED or record.batches > 0)


def ran(record: RunRecord) -> Ran:
    """A run of the journal as people look at it."""
    return Ran(record.identifier, record.start.environment, record.start.digest, record.started_at)


def validation(config: Config, record: RunRecord, said: Sequence[Said]) -> Validation | None:
    """How far this run is validated, by what was said; None where nobody has to look at it."""
    wanted = wanted_on(config, record.start.environment)
    if not wanted or not is_looked_at(record):
        return None
    if _is_signed(config, record.start.environment):
        said = [one for one in said if one.key is not None]
    return validation_of(ran(record), wanted, said, config.people, Book(config).owners)


def validations(book: Book, records: Sequence[RunRecord], now: datetime) -> Mapping[int, Validation]:
    """The same of several runs of one environment, by their numbers; the ledger is read once, and only if need be."""
    config = book.config
    asked = [one for one in records if is_looked_at(one) and wanted_on(config, one.start.environment)]
    if not asked:
        return {}
    environment = asked[0].start.environment
    wanted, policy = wanted_on(config, environment), config.policy_for(environment)
    if _is_signed(config, environment):
        policy = replace(policy, identity=SSH)
    try:
        reading = book.read()
        paths = dict.fromkeys(subject_of_run(one, config).path for one in asked)
        said = book.attestations(reading, tuple(paths), environment, policy, now)
    except BackoutError as error:
        return {one.number: Validation(wanted, problem=error.message) for one in asked}
    if reading.problem is not None:
        text = f"the ledger is not as it was written: {reading.problem}"
        return {one.number: Validation(wanted, problem=text) for one in asked}
    return {one.number: validation_of(ran(one), wanted, said, config.people, book.owners) for one in asked}


def with_note(config: Config, report: RunReport) -> RunReport:
    """The report, with a note where people have to look at what it did."""
    wanted = wanted_on(config, report.environment)
    if not wanted or report.mode is not Mode.REAL or report.outcome is not RunState.COMMITTED:
        return report
    note = f'{Validation(wanted).text}: look at the application, then backout attest {report.identifier} --saw "…"'
    return replace(report, notes=(*report.notes, note))
