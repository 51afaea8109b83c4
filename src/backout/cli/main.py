"""The entry point: `backout VERB …`.

Not for: what verbs do. Invariant: importing this imports no driver, parser or rich, so that help is there at once; and
whatever happens ends in an exit status of `docs/reference/exit-status.md`.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from backout.cli.act import ghost, replay, run, undo
from backout.cli.announce import announce
from backout.cli.backups import backup, backups, restore
from backout.cli.batches import cancel, pause, resume
from backout.cli.ci import ci
from backout.cli.completion import VARIABLE, completion
from backout.cli.endpoint import endpoint
from backout.cli.export import export
from backout.cli.failures import report_failure
from backout.cli.group import Sections
from backout.cli.keep import clean, retain
from backout.cli.look import log, show_run
from backout.cli.people import (
    approve,
    attest,
    claim,
    consent,
    object_,
    overrule,
    reject,
    release,
    submit,
    withdraw,
)
from backout.cli.rehearse import rehearse
from backout.cli.report.verb import report
from backout.cli.session import agree, session, watch
from backout.cli.standing import audit, status
from backout.cli.write import check, demo, doctor, init, new

_SETTINGS = {"help_option_names": ["--help", "-h"], "max_content_width": 100}


@click.group("backout", cls=Sections, context_settings=_SETTINGS)
@click.version_option(package_name="backout", message="backout %(version)s")
def cli() -> None:
    """Production database changes that can be taken back.

    Begin with `backout demo`; every verb has --help with an example.
    """


for _verb in (
    *(demo, init, new, check, doctor, ghost, rehearse, run, replay, undo, status, show_run, log, report, audit),
    *(submit, export, approve, reject, consent, announce, object_, withdraw, overrule, claim, release, attest),
    *(endpoint, session, agree, watch, resume, pause, cancel),
    *(backup, backups, restore, retain, clean, ci, completion),
):
    cli.add_command(_verb)


def execute(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit status."""
    try:
        cli.main(args=list(arguments), prog_name="backout", complete_var=VARIABLE, standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:  # noqa: BLE001  (the last resort: nothing passes without a word on the database)
        return report_failure(error, arguments)
    return 0


def main() -> NoReturn:
    """Run the command line of this process."""
    signal.signal(signal.SIGTERM, _terminate)
    status = execute(sys.argv[1:])
    _flush()
    gc.freeze()  # what is left goes with the process; to look through it first takes 30 ms
    sys.exit(status)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """Be told to stop by a supervisor just as by a person with Ctrl-C."""
    raise KeyboardInterrupt


def _flush() -> None:
    """Write what is left, so that Python's own flush at exit has no broken pipe to complain about."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            stream.close()
