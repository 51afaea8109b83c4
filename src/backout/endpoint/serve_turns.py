"""A command as the work of a run in batches: it connects to the endpoint, asks for bounds, and writes batch after batch.

Twin: `serve.py`, of a run in one transaction. Invariant: no batch is committed while anything is wrong with the endpoint, or
another session of this machine has appeared.
"""

from __future__ import annotations

from time import monotonic

from backout.change.model import Change
from backout.endpoint import child
from backout.endpoint.serve import (
    USER,
    Command,
    Watch,
    network,
    require_as_read,
    require_clean,
    variables,
    words_of,
)
from backout.endpoint.server import Endpoint
from backout.endpoint.turns import Taken, Turnstile
from backout.engines.batches import LendsBatches
from backout.engines.values import Mode
from backout.errors import RolledBack
from backout.runs.recorder import Served

_GRACE_S = 5.0  # in which a program may end by itself when its turn has failed


def serve_turns(change: Change, lends: LendsBatches, turns: Taken, mode: Mode, run: int, command: Command) -> Served:
    """Run the command; its turns are taken from `turns`. Raises RolledBack or Refused; the transcript is kept all the same."""
    words = words_of(change, command)
    is_closed, notes = network(command)
    try:
        with lends.lend() as loan:
            turnstile = Turnstile(lends, turns, loan)
            endpoint = Endpoint(loan, user=USER, keep=lambda lines: lends.transcribe(run, lines), turns=turnstile)
            behind = lends.last_line(run)
            if behind is not None:
                endpoint.transcript.go_on_behind(*behind)
            watch = Watch(words[0], endpoint, lends, command.limits)
            turnstile.problem, turnstile.moved = watch.problem, endpoint.note_activity

            def trouble() -> str | None:
                since = turnstile.failed_at
                if since is not None and monotonic() - since > _GRACE_S:
                    return f'"{words[0]}" was ended, since its run has'
                return watch.trouble()

            with endpoint:
                try:
                    given = child.environment(variables(endpoint, mode), change.metadata.env)
                    folder = str(command.folder)
                    if is_closed:
                        child.run_closed(
                            words, given, folder, trouble, endpoint.port, endpoint.listen, turnstile.attend
                        )
                    else:
                        child.run(words, given, folder, trouble, turnstile.attend)
                    require_clean(watch.last_look())
                    require_as_read(change, command)
                finally:
                    turnstile.close()
                    endpoint.close()
                    endpoint.transcript.flush()
    finally:
        lends.end_reading()
    if endpoint.record.problems:
        raise RolledBack(endpoint.record.problems[0], hint="look what it was; then go on with the run")
    if not endpoint.record.clients:
        raise RolledBack(
            f'"{words[0]}" never connected to the endpoint: it may have written outside of the guard',
            hint="let it use DATABASE_URL or the PG* variables",
        )
    transcript = endpoint.transcript
    came = f"{transcript.statements} statements of {endpoint.record.clients} connections came through the endpoint"
    return Served((*notes, came), {"statements": transcript.statements, "sha256": transcript.head})
