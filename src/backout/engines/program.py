"""Another program, with a stream from it or into it whose end is checked.

Not for: which programs there are. Invariant: no shell; no secret on a command line, where every account of the machine
can read it; the program has ended when the `with` block is left, however that happens.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import IO

from backout.engines.dump import Pour, Reader
from backout.errors import Refused

_LAST_LINES = 50  # of what a program says on standard error; kept in memory only, since it can hold values


@dataclass(frozen=True)
class Program:
    """A program with its arguments. `variables` are set beside the ones that this process has; `doing` is for errors."""

    arguments: tuple[str, ...]
    doing: str  # "dump the database"
    variables: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()  # open files that the program inherits
    private: bool = False  # what it says may hold values of rows, and is kept back


@contextmanager
def reading_from(program: Program) -> Iterator[Reader]:
    """Yield the program's standard output. Raises Refused where it cannot be started or says that it failed."""
    with _running(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout
        while process.stdout.read(1 << 16):  # a reader that stopped early is no reason for the program to fail
            pass


def pour_into(program: Program, pour: Pour, output: int = subprocess.DEVNULL) -> None:
    """Pour a dump into the program's standard input. Raises Refused where it cannot be started or fails.

    A program that stops to read early is no error of ours: how it ended, its exit status says.
    """
    with _running(program, stdin=subprocess.PIPE, stdout=output) as process:
        assert process.stdin is not None
        pour(_Forgiving(process.stdin))
        with suppress(BrokenPipeError):
            process.stdin.close()


class _Forgiving:
    """A pipe whose reader may go away."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._gone = False

    def write(self, data: bytes) -> int:
        if not self._gone:
            try:
                self._pipe.write(data)
            except BrokenPipeError:
                self._gone = True
        return len(data)

    def flush(self) -> None:
        if not self._gone:
            try:
                self._pipe.flush()
            except BrokenPipeError:
                self._gone = True


def answer_of(program: Program) -> str:
    """Run a program to its end; return what it printed. Raises Refused where it fails."""
    with reading_from(program) as output:
        return output.read().decode(errors="replace")


@contextmanager
def _running(program: Program, *, stdin: int, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            program.arguments, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE,
            env={**os.environ, **program.variables}, pass_fds=program.descriptors,
        )  # fmt: skip
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise Refused(
            "backup", f'unable to {program.doing}: "{program.arguments[0]}" cannot be run: {reason}',
            hint="install it, or name another provider of backups",
        ) from None  # fmt: skip
    said: deque[str] = deque(maxlen=_LAST_LINES)
    listener = Thread(target=_listen, args=(process.stderr, said), daemon=True)
    listener.start()
    try:
        yield process
        process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        listener.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
    if process.returncode != 0:
        raise _failed(program, process.returncode, said)


def _listen(stream: IO[bytes] | None, said: deque[str]) -> None:
    assert stream is not None
    for line in stream:
        said.append(line.decode(errors="replace").rstrip())


def _failed(program: Program, status: int, said: deque[str]) -> Refused:
    """The first line that tells of an error; never DETAIL or CONTEXT, which quote rows."""
    name = os.path.basename(program.arguments[0])  # noqa: PTH119  a word of a command line, not a path of ours
    if program.private:
        reason = f"{name} ended with status {status}; its words are kept back, since they can hold values of rows"
    else:
        lines = [line for line in said if line.strip()]
        telling = [line for line in lines if "error" in line.lower()]
        reason = (telling or lines or [f"{name} ended with status {status} and said nothing"])[0]
    return Refused(
        "backup", f"unable to {program.doing}: {reason}", hint="nothing was changed; mend it, then try again"
    )
