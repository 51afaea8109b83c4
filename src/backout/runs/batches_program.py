"""A program in batches: it asks for its next bounds, and what it writes until it asks again is a batch.

The program is another process, in whatever language; how it asks is the endpoint's (`endpoint/turns.py`). Where it fails,
the batch at hand is rolled back; `resume` starts it again, and it gets the batches that are left.

Invariant: whatever the program makes of an error, a turn that has failed ends the run.
"""

from __future__ import annotations

from backout.errors import BackoutError, Refused
from backout.runs.batches_going import Going
from backout.runs.batches_turns import Turns
from backout.runs.recorder import told_mode


def run_program(going: Going) -> None:
    """Run the program until its last batch is settled. Raises what ended it."""
    turns = Turns(going)
    change, serve = going.run.change, going.run.serve_turns
    assert serve is not None, "whoever runs a program has an endpoint for it"
    lends = going.batches.lending(going.keyset)
    try:
        with told_mode(going.run.mode):
            served = serve(change, lends, turns, going.run.mode, going.number)
    except BackoutError:
        if turns.failed is not None:
            raise turns.failed from None
        raise
    finally:
        was_open = turns.is_open
        turns.abandon()
    if turns.failed is not None:
        raise turns.failed
    if was_open or not turns.over:
        raise Refused(
            "program", "the program ended before the last batch: the one at hand is rolled back", state=going.state,
            hint="let it ask, SELECT * FROM backout.next_batch(), until there is no row",
        )  # fmt: skip
    going.notes += served.notes
    going.transcript = served.transcript
