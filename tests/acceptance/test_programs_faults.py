"""Who may connect, what a client cannot call, what thousands of statements cost, and tables too big to scan."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psycopg
import pytest

from acceptance.program import PROGRAM, environment
from acceptance.test_programs import SCHEMA as PATIENTS
from acceptance.test_programs import Programs, yes
from backout import Project
from backout.endpoint.frames import Stream, message
from backout.engines.values import RunState
from backout.errors import Refused
from endpoints import supervised
from servers import PostgresDatabase

pytestmark = pytest.mark.ends
LOOPBACK, LISTENING = "0100007F", "0A"  # 127.0.0.1 and TCP_LISTEN, as /proc has them (man 5 proc)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="NOT TESTED: there is no /proc/net/tcp")
def test_nobody_reaches_the_endpoint_but_from_this_machine(postgres18: PostgresDatabase) -> None:
    with supervised(postgres18) as (_, endpoint):
        lines = [
            line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]
        ]
    listening = [place.split(":") for _, place, _, state, *_ in lines if state == LISTENING]
    assert [address for address, port in listening if int(port, 16) == endpoint.port] == [LOOPBACK]


def test_a_procedure_that_commits_does_not(postgres: PostgresDatabase) -> None:
    schema = """
        CREATE TABLE t (id integer);
        CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); COMMIT; END';
        CREATE PROCEDURE rolls_back() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); ROLLBACK; END';
        """
    with (
        supervised(postgres, schema) as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True, prepare_threshold=0) as client,
    ):
        for text in ("CALL commits()", "CALL rolls_back()", "DO 'BEGIN CALL commits(); END'", "DO 'BEGIN COMMIT; END'"):
            for _ in range(2):
                with pytest.raises(psycopg.errors.InvalidTransactionTermination):
                    client.execute(text)
        assert client.execute("SELECT id FROM t").fetchall() == [(0,)]
    assert endpoint.record.problems == []


def test_a_function_cannot_be_called_by_its_number(postgres: PostgresDatabase) -> None:
    with supervised(postgres) as (session, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        number = session.value("SELECT 'pg_catalog.pg_advisory_lock(bigint)'::regprocedure::oid::integer")
        call = message(
            b"F", int(number).to_bytes(4, "big") + b"\0\1\0\1\0\1\0\0\0\x08" + (7).to_bytes(8, "big") + b"\0\1"
        )
        with socket.socket(fileno=os.dup(client.pgconn.socket)) as raw:
            raw.settimeout(20)
            raw.sendall(call)
            stream = Stream()
            kinds = ""
            while "Z" not in kinds:
                stream.add(raw.recv(1 << 16))
                for kind, payload in stream.messages():
                    kinds += chr(kind)
                    if kind == ord("E"):
                        assert b"fast-path function calls are not passed on" in payload
        assert kinds == "EZ"
        assert client.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
    assert endpoint.record.problems == []


@pytest.mark.parametrize("prepare", [True, False])
def test_ten_thousand_statements_cost_no_memory(postgres18: PostgresDatabase, *, prepare: bool) -> None:
    """Neither of the endpoint, nor savepoints on the server that pile up."""

    def ask(client: psycopg.Connection[tuple[object, ...]], times: int) -> None:
        for number in range(times):
            if number % 10:
                client.execute("SELECT %s::integer", (number,), prepare=prepare)
            else:
                client.execute("INSERT INTO t VALUES (%s)", (number + 1,), prepare=prepare)
            if number % 500 == 0:
                endpoint.transcript.flush()

    with supervised(postgres18) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        ask(client, 2_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ask(client, 10_000)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB
        assert client.execute("SELECT count(*) FROM t").fetchone() == (1_201,)
        assert endpoint.transcript.statements >= 12_000
    assert endpoint.record.problems == []


#: In a user namespace of its own, which may have no networks (man 7 namespaces, max_net_namespaces).
WITHOUT_NETWORKS = ("unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"', "sh")
tried = [*WITHOUT_NETWORKS, "true"] if shutil.which("unshare") else ["false"]
can_forbid = subprocess.run(tried, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_forbid, reason="NOT TESTED: networks cannot be forbidden to a process here")
def test_a_network_that_cannot_be_closed_is_said_or_refused(postgres18: PostgresDatabase, tmp_path: Path) -> None:
    postgres18.as_application(PATIENTS)
    programs = Programs(tmp_path, postgres18)
    programs.python("""connection.execute("UPDATE patient SET name = 'open'"); connection.commit()\n""")
    words = [*WITHOUT_NETWORKS, str(PROGRAM), "ghost", "mend", "--on", "staging", "--yes"]

    ended = subprocess.run(words, check=True, cwd=tmp_path, env=environment(), capture_output=True, text=True)

    said = "the program's network was open, since it cannot be given one of its own here: no space left on device"
    assert said in " ".join((ended.stdout + ended.stderr).split())
    programs.python("pass\n", more='# network = "endpoint"\n')
    ended = subprocess.run(words, check=False, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert ended.returncode != 0
    assert "the program cannot be given a network of its own here: no space left on device" in ended.stderr


def test_a_run_whose_backout_is_killed_under_its_program_leaves_nothing(
    postgres18: PostgresDatabase, tmp_path: Path
) -> None:
    """What the program has committed, too; and the program has nobody to talk to any more."""
    postgres18.as_application(PATIENTS)
    programs = Programs(tmp_path, postgres18)
    start = programs.rows()
    body = """
        connection.execute("UPDATE patient SET name = 'half'")
        connection.commit()
        print("written", flush=True)
        while True:
            connection.execute("SELECT 1 FROM pg_sleep(0.05)")
        """
    programs.python(body)
    words = [str(PROGRAM), "run", "mend", "--on", "staging", "--yes"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert "written\n" in iter(run.stderr.readline, "")
        run.send_signal(signal.SIGKILL)
        run.stderr.read()  # the program has the other end of it: it has ended, too

    postgres18.execute("SELECT FROM patient FOR UPDATE")  # waits for whoever still holds the rows
    assert programs.rows() == start

    programs.python("""connection.execute("UPDATE patient SET name = 'whole'"); connection.commit()\n""")
    again = programs.project.run(programs.project.change("mend"), "staging", ask=yes)
    assert again.outcome is RunState.COMMITTED
    programs.project.undo(again.identifier, ask=yes)
    assert programs.rows() == start


@pytest.mark.parametrize("armed", [True, False])
def test_tables_that_are_too_big_to_scan_are_armed_for_a_program_or_its_run_fails(
    postgres: PostgresDatabase, tmp_path: Path, *, armed: bool
) -> None:
    """A program names no tables beforehand. What its last client leaves behind does not take the log along."""
    postgres.as_application(PATIENTS)
    programs = Programs(tmp_path, postgres)
    with (tmp_path / "backout.toml").open("a") as file:
        file.write("scan_limit = 0\n")
        file.write('arm = ["public.patient", "public.note", "public.visit"]\n' if armed else "")
    project = Project.find(start=tmp_path)
    programs.python("""
        connection.execute("CREATE TEMP TABLE made AS SELECT 1 AS id")
        connection.execute("UPDATE patient SET name = 'one' WHERE id IN (SELECT id FROM made)")
        connection.commit()
        connection.execute("DELETE FROM patient WHERE id = 3")
        connection.rollback()
        connection.execute("DELETE FROM patient WHERE id = 5")
        connection.commit()
        connection.close()
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as second:
            second.execute("UPDATE patient SET phone = 'x' WHERE id = 1")
        """)
    start = programs.rows()

    if not armed:
        with pytest.raises(Refused, match="too big to scan here, and was not armed for this run"):
            project.run(project.change("mend"), "staging", ask=yes)
        assert programs.rows() == start
        return
    run = project.run(project.change("mend"), "staging", ask=yes)
    assert {(one.table, one.captured_by) for one in run.tables} == {
        ("public.patient", "armed triggers"),
        ("public.note", "armed triggers"),
    }
    assert postgres.execute("SELECT name, phone FROM patient WHERE id = 1") == [("one", "x")]
    project.undo(run.identifier, ask=yes)
    assert programs.rows() == start
