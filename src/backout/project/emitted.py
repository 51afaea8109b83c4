"""Transcripts of runs, as the database has them."""

from __future__ import annotations

from backout.endpoint.emitted import Story, story
from backout.engines.protocol import Database, Transcribes
from backout.engines.values import RunRecord
from backout.errors import UsageError

__all__ = ["Story", "story_of"]


def story_of(database: Database, record: RunRecord) -> Story:
    """What clients of the endpoint did in this run. Raises UsageError where nothing of it is there (any more)."""
    journal = database.journal
    kept = journal.transcript(record.number) if isinstance(journal, Transcribes) else ()
    head = record.report.get("transcript")
    if not kept:
        gone = "it went with the run's rescue" if head else "it was not a program's"
        raise UsageError(
            f'run "{record.identifier}" has no transcript: {gone}', hint="backout show shows what it changed"
        )
    return story(kept, str(head["sha256"]) if head else None)
