"""What `backout demo` tells, as values: each step with its sentence and what is typed.

Not for: playing it (`run`). Invariant: the clinic is the same each time, and so are the numbers that are told here.
"""

from __future__ import annotations

from dataclasses import dataclass

from backout.errors import Conflicts

CHANGE = "close-outage-referrals"

CAST = """\
The clinic has 300 patients, 600 referrals and 900 notes, all made up. As in most applications, triggers keep
`updated_at` and write an audit log."""

MORAL = """\
A change was read, rehearsed, run and taken back. Nothing was committed that could not be undone, and nothing that
somebody else had done was undone with it."""


@dataclass(frozen=True)
class Line:
    """What is typed: `$ backout …`, `$ cat FILE`, or SQL of the application; `ends` is the exit status to come."""

    text: str
    ends: int = 0


@dataclass(frozen=True)
class Step:
    """One step of the story."""

    title: str
    sentence: str
    lines: tuple[Line, ...]


STORY = (
    Step(
        "The change",
        'From 9 to 13 November a message queue was out, and 132 referrals that clinics had answered still say "open". '
        "This file closes them, and leaves a note in each.",
        (Line(f"$ cat changes/{CHANGE}.sql"),),
    ),
    Step(
        "A place for the records",
        "backout keeps its journal, and the rows as they were, in the database that it changes: in schemas that the "
        "application's role cannot write to.",
        (Line("$ backout init --on demo"),),
    ),
    Step(
        "Can it be taken back?",
        "That is asked first, of each statement, while nothing runs. The catalogue adds what the text does not tell: "
        "keys, triggers, cascades.",
        (Line(f"$ backout check {CHANGE} --on demo"),),
    ),
    Step(
        "A ghost run",
        "All of it happens, is proven and shown, and is rolled back. With --undo the way back is taken as well, inside "
        "the same transaction, and the end compared with the start.",
        (Line(f"$ backout ghost {CHANGE} --on demo --undo --rows 2"),),
    ),
    Step(
        "The run",
        "Now for good. It is committed only because the rows that were kept explain every write that PostgreSQL itself "
        "counted, the audit trigger's included.",
        (Line(f"$ backout run {CHANGE} --on demo --rows 0 --yes"),),
    ),
    Step(
        "Meanwhile",
        "The clinic goes on working. A doctor hears back about one of these referrals, and words the reason of another "
        "more precisely.",
        (
            Line("UPDATE referral SET status = 'answered' WHERE id = 422;"),
            Line("UPDATE referral SET reason = 'follow-up after knee surgery' WHERE id = 423;"),
        ),
    ),
    Step(
        "The undo meets the doctor's work",
        "The product owner finds that the referrals should have stayed open. One of them is no longer as the run left "
        "it: that is said first, and nothing is touched.",
        (Line("$ backout undo demo-2 --yes", Conflicts.exit_status),),
    ),
    Step(
        "All but that row",
        "What the doctor decided stays. So does what she did to the other row, beside what is put back: the run never "
        "touched that column.",
        (Line("$ backout undo demo-2 --partial --rows 2 --yes", Conflicts.exit_status),),
    ),
    Step(
        "What is true now",
        "Of the 132 referrals 131 are open again, one is as the doctor left it, and the notes of the run are gone.",
        (
            Line(
                "SELECT status, count(*) FROM referral WHERE opened_at >= '2026-11-09' GROUP BY status ORDER BY status;"
            ),
            Line("SELECT id, status, reason FROM referral WHERE id IN (422, 423) ORDER BY id;"),
            Line("SELECT count(*) AS notes FROM note;"),
        ),
    ),
    Step(
        "What was done, and by whom",
        "The journal has it all; an undo is a run like any other.",
        (Line("$ backout log --on demo"),),
    ),
)
