"""What a client of the endpoint could do to get past the capture, or to end the supervised transaction: each refused.

The fixture's end asks the transaction whether it is still the one that was begun.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backout.endpoint.frames import message
from backout.endpoint.server import Endpoint
from backout.engines.postgres.session import Session
from endpoints import supervised
from servers import PostgresDatabase

pytestmark = pytest.mark.ends
SCHEMA = """
CREATE TABLE t (id integer);
CREATE SEQUENCE s;
CREATE TABLE other.t (id integer); INSERT INTO other.t VALUES (77);
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (parent integer REFERENCES parent DEFERRABLE INITIALLY IMMEDIATE);
CREATE FUNCTION blind(setting text, value text) RETURNS void LANGUAGE plpgsql AS
    'BEGIN PERFORM set_config(setting, value, false); END';
"""
Raw = Callable[..., bytes]


@contextmanager
def guarded(
    database: PostgresDatabase, more: str = "", isolation: str = "READ COMMITTED"
) -> Iterator[tuple[Session, Endpoint]]:
    database.execute(f'CREATE SCHEMA other AUTHORIZATION "{database.application_role}"')
    with supervised(database, SCHEMA + more, isolation) as found:
        yield found


@contextmanager
def bytes_to(client: psycopg.Connection[object]) -> Iterator[Raw]:
    """Messages as bytes, and all that is answered to them."""
    with socket.socket(fileno=os.dup(client.pgconn.socket)) as raw:
        raw.settimeout(10)

        def say(*messages: bytes) -> bytes:
            raw.sendall(b"".join(messages))
            said = b""
            while b"Z\0\0\0\x05" not in said and (more := raw.recv(1 << 16)):
                said += more
            return said

        yield say


PARSED_COMMIT = message(b"P", b"x\0COMMIT\0\0\0")
BOUND_COMMIT = message(b"B", b"p\0x\0\0\0\0\0\0\0")
SYNC = message(b"S")
EXECUTE_P = message(b"E", b"p\0\0\0\0\0")


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


@pytest.mark.parametrize(
    "said",
    [
        [[PARSED_COMMIT, SYNC], [query('EXECUTE "c1_x"')]],
        [[PARSED_COMMIT, SYNC], [query("EXECUTE x")]],
        [[PARSED_COMMIT, BOUND_COMMIT, SYNC], [EXECUTE_P, SYNC]],
        [[query("BEGIN")], [PARSED_COMMIT, BOUND_COMMIT, SYNC], [query("FETCH ALL FROM p")], [query("MOVE p")]],
        [[PARSED_COMMIT, message(b"P", b"x\0SELECT 1\0\0\0"), SYNC], [BOUND_COMMIT, EXECUTE_P, SYNC]],
        [[query("PREPARE q AS SELECT 1; COMMIT; ROLLBACK")]],
        [[query("EXECUTE _backout_release")], [query("SELECT 1/0")]],
        [[query("DEALLOCATE _backout_back")], [query("SELECT 1/0")]],
        [[query("DEALLOCATE ALL")], [query("SELECT 1/0")]],
        [[query("RELEASE SAVEPOINT _backout_guard")], [query("SELECT 1/0")]],
        [[query("DO 'BEGIN COMMIT; END'")]],
        [[query("DISCARD ALL")], [query("SELECT 1/0")]],
        [[query("RESET ALL")], [query("SELECT 1/0")]],
    ],
    ids=lambda said: b" ".join(said[-1]).decode(errors="replace").replace("\0", "")[:30],
)
def test_nothing_ends_the_supervised_transaction(postgres: PostgresDatabase, said: list[list[bytes]]) -> None:
    with guarded(postgres) as (_, endpoint):
        with psycopg.connect(endpoint.url, autocommit=True) as client, bytes_to(client) as say:
            for together in said:
                say(*together)
        with psycopg.connect(endpoint.url, autocommit=True) as after:
            assert after.execute("SELECT 7").fetchone() == (7,)
        assert endpoint.record.problems == []


def test_a_query_that_overtakes_its_pipeline_is_not_read(postgres: PostgresDatabase) -> None:
    """A function could change how the query is read, after it was judged and before the server reads it."""
    blinding = message(b"P", b"\0SELECT blind('standard_conforming_strings', 'off')\0\0\0")
    running = message(b"B", b"\0\0\0\0\0\0\0\0") + message(b"E", b"\0\0\0\0\0")
    with guarded(postgres) as (_, endpoint):
        client = psycopg.connect(endpoint.url, autocommit=True)
        with bytes_to(client) as say:
            said = say(blinding, running, query(r"SELECT 'x\', '; COMMIT; --'"))
        assert b"08P01" in said
        client.pgconn.finish()


@pytest.mark.parametrize(("setting", "value"), [("standard_conforming_strings", "off"), ("client_encoding", "LATIN1")])
def test_a_function_that_changes_how_text_is_read_ends_the_run(
    postgres: PostgresDatabase, setting: str, value: str
) -> None:
    with guarded(postgres) as (session, endpoint):
        client = psycopg.connect(endpoint.url, autocommit=True)
        with pytest.raises(psycopg.OperationalError, match="the supervised session was lost"):
            client.execute("SELECT blind(%s, %s)", (setting, value))
            client.execute(r"SELECT 'x\', '; COMMIT; --'")
        client.close()
        endpoint.close()
        assert f'"{setting}" was changed to "{value}" by a function, unseen' in endpoint.record.problems[0]
        session.close()


@pytest.mark.parametrize(
    ("text", "code", "said", "hint"),
    [
        ("TRUNCATE t", "0A000", "TRUNCATE cannot be captured", "use DELETE"),
        ("CREATE TABLE made ()", "0A000", "a change of the schema", "use a schema migration"),
        ("ALTER TABLE t ADD made text", "0A000", "a change of the schema", "use a schema migration"),
        ("SELECT 1 AS one INTO made", "0A000", "a change of the schema", "use a schema migration"),
        ("VACUUM t", "0A000", "VACUUM and ANALYZE change no rows", "run it by hand"),
        ("ALTER SYSTEM SET work_mem = '1MB'", "0A000", "ALTER SYSTEM", "do it by hand"),
        ("LISTEN mail", "0A000", "LISTEN has no meaning", "leave it out"),
        ("NOTIFY mail", "0A000", "NOTIFY cannot be taken back", "send it by hand"),
        ("DISCARD ALL", "0A000", "DISCARD would reset the session", "use RESET ALL"),
        ("PREPARE TRANSACTION 'x'", "0A000", "two-phase commit cannot be part of a run", "leave it out"),
        ("COMMIT PREPARED 'x'", "0A000", "two-phase commit cannot be part of a run", "leave it out"),
        ("SAVEPOINT _backout_x", "42939", "backout's own", "choose a name"),
        ("PREPARE _backout_x AS SELECT 1", "42939", "backout's own", "choose another name"),
        ("DEALLOCATE _backout_guard", "42939", "backout's own", "choose another name"),
        ("EXECUTE c1_x", "42939", "backout's own", "choose another name"),
        ("SELECT setval('s', 9)", "0A000", 'function "setval" may not be called', "insert with nextval"),
        ("SELECT pg_catalog . setval('s', 9)", "0A000", "may not be called", "insert with nextval"),
        ("PREPARE p AS SELECT setval('s', 9)", "0A000", "may not be called", "insert with nextval"),
        ("EXECUTE p(setval('s', 9))", "0A000", "may not be called", "insert with nextval"),
        ("COPY (SELECT setval('s', 9)) TO STDOUT", "0A000", "may not be called", "insert with nextval"),
        ("COPY t FROM STDIN WHERE setval('s', id) > 0", "0A000", "may not be called", "insert with nextval"),
        ("COPY backout.run FROM STDIN", "0A000", "backout's own", "use the verbs"),
        ("COPY t TO '/tmp/t'", "0A000", "a server's file", "use INSERT"),
        ("COPY t FROM PROGRAM 'cat'", "0A000", "runs a program on the server", "use INSERT"),
        ("SELECT lo_create(0)", "0A000", "large objects are not captured", "bytea"),
        ("SELECT dblink_exec('x', 'y')", "0A000", "a connection of its own", "make a change for that database"),
        ("SELECT pg_read_file('/etc/passwd')", "0A000", "the files of the server", "into the change file"),
        ("SET session_replication_role = replica", "0A000", "turns triggers", "so that they may fire"),
        ("SET row_security = on", "0A000", "row_security", "the run sets it"),
        ("SET LOCAL track_counts = off", "0A000", "track_counts", "the run sets it"),
        ("SET standard_conforming_strings = off", "0A000", "changes how", "use E'…'"),
        ("SET client_encoding = 'LATIN1'", "0A000", "changes how", "UTF-8"),
        ("SET NAMES 'SQL_ASCII'", "0A000", "changes how", "UTF-8"),
        ("RESET client_encoding", "0A000", "changes how", "UTF-8"),
        ("SET ROLE postgres", "0A000", "who the change runs as", "environment's policy"),
        ("SET SESSION AUTHORIZATION postgres", "0A000", "who the change runs as", "environment's policy"),
        ("SELECT set_config('row_security', 'on', true)", "0A000", "row_security", "the run sets it"),
        ("SELECT set_config('work_mem', '1MB', 1 > 0)", "0A000", "does not say for how long", "true or false"),
        ("PREPARE p AS SELECT set_config('work_mem', '1MB', true)", "0A000", "would set unseen", "by itself"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "25001", "is not serializable", "repeatable read"),
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "25001", "is not repeatable read", "repeatable read"),
        ("SET TRANSACTION READ ONLY", "25001", "has begun", "BEGIN READ ONLY"),
        ("SET TRANSACTION SNAPSHOT '1'", "0A000", "belongs to the transaction", "leave it out"),
        ("CREATE TEMP TABLE made (id integer) ON COMMIT DELETE ROWS", "0A000", "DELETE ROWS", "ON COMMIT DROP"),
        ("SELEC 1", "42601", "syntax error", "only what it can read; at character 1"),
        ('DELETE FROM U&"b\\0061ckout".run', "0A000", "backout's own", "use the verbs"),
        ("/* /* nested */ */ TRUNCATE t", "0A000", "TRUNCATE", "use DELETE"),
        ("/* /* */ SELECT 1; */ TRUNCATE t", "0A000", "TRUNCATE", "use DELETE"),
        (r"SELECT E'\'; TRUNCATE t; --'; TRUNCATE t", "0A000", "TRUNCATE", "use DELETE"),
        ("SELECT $a$ $b$ ; $a$; TRUNCATE t --$b$", "0A000", "TRUNCATE", "use DELETE"),
    ],
)  # fmt: skip
def test_what_is_refused_has_a_code_a_reason_and_a_way_out(
    postgres18: PostgresDatabase, text: str, code: str, said: str, hint: str
) -> None:
    with (
        guarded(postgres18) as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True, prepare_threshold=None) as client,
    ):
        for how in (lambda: client.execute(text), lambda: client.pgconn.exec_(text.encode())):
            try:
                answer = how()
            except psycopg.Error as error:
                assert (error.sqlstate, said in str(error.diag.message_primary)) == (code, True), error
                assert hint in str(error.diag.message_hint)
            else:
                assert isinstance(answer, psycopg.pq.PGresult), "it was passed on"
                assert answer.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == code.encode()
        assert client.execute("SELECT count(*) FROM t").fetchone() == (1,)


@pytest.mark.parametrize(
    "text",
    [
        r"SELECT 'x\', '; TRUNCATE t; --'",
        r"SELECT E'\'; TRUNCATE t; --'",
        "SELECT $a$; TRUNCATE t; $a$",
        "SELECT 1 /* ; TRUNCATE t; /* */ ; TRUNCATE t; */",
        "SELECT U&'\\0041' AS \"; TRUNCATE t; \"",
        "SELECT 'a'\n '; TRUNCATE t;'",
    ],
)
def test_what_only_looks_like_another_statement_is_one_for_both_parsers(postgres: PostgresDatabase, text: str) -> None:
    with guarded(postgres) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        through = client.execute(text).fetchall()
        direct = postgres.execute(text)
    assert through == [tuple(row) for row in direct]


def test_bytes_that_are_not_utf_8_are_refused(postgres: PostgresDatabase) -> None:
    with (
        guarded(postgres) as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True) as client,
        bytes_to(client) as say,
    ):
        assert b"C22021\0" in say(message(b"Q", b"SELECT '\xe4'\0"))
        assert b"C22021\0" in say(message(b"P", b"\0SELECT '\xc0\xaf'\0\0\0"), SYNC)


def test_what_stands_behind_a_nul_is_not_passed_on(postgres: PostgresDatabase) -> None:
    with (
        guarded(postgres) as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True) as client,
        bytes_to(client) as say,
    ):
        assert b"SELECT 1\0" in say(message(b"Q", b"SELECT 5\0; TRUNCATE t\0"))
        assert client.execute("SELECT count(*) FROM t").fetchone() == (1,)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"user": "postgres"}, 'user "postgres" is not the one of this run'),
        ({"dbname": "other"}, 'database "other" is not the one of this run'),
        ({"password": "guess"}, 'wrong password for user "u"'),
        ({"client_encoding": "LATIN1"}, 'setting "client_encoding" changes how statements are read'),
        ({"options": "-c standard_conforming_strings=off"}, 'setting "standard_conforming_strings" changes how'),
        ({"options": "-csession_replication_role=replica"}, 'setting "session_replication_role" turns triggers'),
        ({"options": "--role=postgres"}, 'setting "role" changes who the change runs as'),
        ({"replication": "database"}, "replication connections are not part of a run"),
    ],
)
def test_who_asks_for_something_else_at_log_in_is_turned_away(
    postgres: PostgresDatabase, asked: dict[str, str], said: str
) -> None:
    with (
        guarded(postgres) as (_, endpoint),
        pytest.raises(psycopg.OperationalError) as caught,
    ):
        psycopg.connect(make_conninfo(endpoint.url, **asked))
    assert said in str(caught.value)
    assert endpoint.record.clients == 0


def test_settings_asked_for_at_log_in_are_set(postgres: PostgresDatabase) -> None:
    asked = {"options": r"-c search_path=other -c my.name=a\ b", "application_name": "a client"}
    with guarded(postgres) as (_, endpoint):
        with psycopg.connect(make_conninfo(endpoint.url, **asked), autocommit=True) as client:
            assert client.execute("SELECT id FROM t").fetchall() == [(77,)]
            assert client.execute("SELECT current_setting('my.name')").fetchone() == ("a b",)
        with psycopg.connect(endpoint.url, autocommit=True) as client:
            assert client.execute("SELECT id FROM t").fetchall() == [(0,)]
        with (
            pytest.raises(psycopg.Error, match="TimeZone"),
            psycopg.connect(make_conninfo(endpoint.url, options="-c timezone=Nowhere"), autocommit=True) as client,
        ):
            client.execute("SELECT 1")


def value(client: psycopg.Connection[tuple[object, ...]], name: str) -> object:
    row = client.execute("SELECT current_setting(%s, true)", (name,)).fetchone()
    assert row is not None
    return row[0]


def test_what_is_set_locally_ends_with_the_transaction_of_the_client(postgres: PostgresDatabase) -> None:
    """The next transaction would else write to tables of another schema."""
    with guarded(postgres) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        with client.transaction():
            client.execute("SET LOCAL search_path = other")
            client.execute("SELECT set_config('my.user', '7', true)")
            assert client.execute("SELECT id FROM t").fetchall() == [(77,)]
        assert client.execute("SELECT id FROM t").fetchall() == [(0,)]
        assert value(client, "my.user") == ""

        client.execute("SET LOCAL work_mem = '9MB'")  # outside of a transaction: for this statement alone
        before = value(client, "work_mem")
        client.execute("SET LOCAL work_mem = '9MB'; SELECT 1")
        assert value(client, "work_mem") == before != "9MB"

        with client.transaction():
            client.execute("SET LOCAL work_mem = '8MB'")
            client.execute("SET work_mem = '7MB'")
        assert value(client, "work_mem") == "7MB"
        with client.transaction():
            client.execute("SET work_mem = '6MB'")
            client.execute("SET LOCAL work_mem = '5MB'")
            with suppress(ZeroDivisionError), client.transaction():
                client.execute("SET LOCAL work_mem = '4MB'")
                raise ZeroDivisionError
            assert value(client, "work_mem") == "5MB"
        assert value(client, "work_mem") == "6MB"
        with client.transaction(force_rollback=True):
            client.execute("SET work_mem = '3MB'")
        assert value(client, "work_mem") == "6MB"
        client.execute("RESET ALL")
        assert value(client, "work_mem") == before


def test_each_client_has_its_own_settings_and_leaves_none(postgres: PostgresDatabase) -> None:
    with guarded(postgres) as (session, endpoint):
        start = session.value("SHOW lock_timeout")
        with (
            psycopg.connect(endpoint.url, autocommit=True) as one,
            psycopg.connect(endpoint.url, autocommit=True) as two,
        ):
            one.execute("SET search_path = other")
            assert two.execute("SELECT id FROM t").fetchall() == [(0,)]
            two.execute("SET lock_timeout = '3s'")
            assert one.execute("SELECT id FROM t").fetchall() == [(77,)]
            assert (value(one, "lock_timeout"), value(two, "lock_timeout")) == (start, "3s")
            one.execute("PREPARE p AS SELECT 1")
            one.execute("CREATE TEMP TABLE made (id integer)")
            one.execute("SELECT pg_advisory_lock(7)")
        with psycopg.connect(endpoint.url, autocommit=True) as three:
            assert three.execute("SELECT id FROM t").fetchall() == [(0,)]
            assert value(three, "lock_timeout") == start
            assert three.execute("SELECT to_regclass('pg_temp.made')").fetchone() == (None,)
            assert three.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
            three.execute("PREPARE p AS SELECT 1")


def test_a_name_of_a_temporary_table_is_not_taken_for_the_permanent_one(postgres: PostgresDatabase) -> None:
    with (
        guarded(postgres) as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True) as client,
    ):
        with client.transaction(force_rollback=True):
            client.execute("CREATE TEMP TABLE t (id integer)")
            client.execute("ALTER TABLE t ADD made text")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="a change of the schema"):
            client.execute("ALTER TABLE t ADD made text")
        with client.transaction():
            client.execute("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="a change of the schema"):
            client.execute("DROP TABLE t")
        client.execute("CREATE TEMP TABLE t (id integer)")
        client.execute("SET search_path = public, pg_temp")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="a change of the schema"):
            client.execute("CREATE INDEX ON t (id)")


def test_tables_cursors_and_portals_end_with_the_transaction_of_the_client(postgres: PostgresDatabase) -> None:
    with guarded(postgres) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        for _ in range(2):
            with client.transaction():
                client.execute("CREATE TEMP TABLE made (id integer) ON COMMIT DROP")
                client.execute("DECLARE c CURSOR FOR SELECT 1")
        with pytest.raises(psycopg.errors.InvalidCursorName):
            client.execute("FETCH c")
        with client.transaction():
            client.execute("DECLARE kept CURSOR WITH HOLD FOR SELECT generate_series(1, 3)")
        assert client.execute("FETCH 2 FROM kept").fetchall() == [(1,), (2,)]
        client.execute("CLOSE kept")
        with bytes_to(client) as say:
            named = message(b"P", b"\0SELECT 1\0\0\0") + message(b"B", b"p\0\0\0\0\0\0\0\0") + SYNC
            assert b"2\0\0\0\x04" in say(named)
            assert b"2\0\0\0\x04" in say(named)  # the first p has ended with its Sync
            assert b"C34000\0" in say(EXECUTE_P, SYNC)


def test_a_transaction_that_only_reads_cannot_write(postgres: PostgresDatabase) -> None:
    with guarded(postgres) as (_, endpoint), psycopg.connect(endpoint.url) as client:
        client.read_only = True
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            client.execute("INSERT INTO t VALUES (1)")
        client.rollback()
        client.execute("SELECT 1")
        client.commit()
        client.read_only = False
        client.execute("INSERT INTO t VALUES (2)")
        client.commit()
        assert client.execute("SELECT id FROM t ORDER BY id").fetchall() == [(0,), (2,)]


def test_a_constraint_that_the_client_defers_is_checked_at_its_commit(postgres: PostgresDatabase) -> None:
    with guarded(postgres) as (_, endpoint), psycopg.connect(endpoint.url) as client:
        client.execute("SET CONSTRAINTS ALL DEFERRED")
        client.execute("INSERT INTO child VALUES (9)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            client.commit()
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            client.execute("INSERT INTO child VALUES (9)")


def test_the_level_that_the_run_has_may_be_asked_for(postgres: PostgresDatabase) -> None:
    with guarded(postgres, isolation="REPEATABLE READ") as (_, endpoint), psycopg.connect(endpoint.url) as client:
        client.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        client.execute("INSERT INTO t VALUES (1)")
        client.commit()
        client.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        client.rollback()
        client.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with pytest.raises(psycopg.errors.ActiveSqlTransaction):
            client.execute("SELECT 1")


def test_a_comment_at_the_end_of_a_statement_does_not_swallow_the_next(postgres: PostgresDatabase) -> None:
    with guarded(postgres) as (_, endpoint), psycopg.connect(endpoint.url, autocommit=True) as client:
        client.pgconn.exec_(b"INSERT INTO t VALUES (1) -- one\n; INSERT INTO t VALUES (2); COMMIT; SELECT 1")
        assert client.execute("SELECT id FROM t ORDER BY id").fetchall() == [(0,), (1,), (2,)]


def test_operators_of_the_client_do_not_reach_our_own_statements(postgres: PostgresDatabase) -> None:
    own = """
        CREATE FUNCTION other.divided(integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT 7';
        CREATE OPERATOR other./ (FUNCTION = other.divided, LEFTARG = integer, RIGHTARG = integer);
        """
    with (
        guarded(postgres, own) as (_, endpoint),
        psycopg.connect(endpoint.url, autocommit=True) as client,
    ):
        client.execute("SET search_path = other, pg_catalog, public")
        assert client.execute("SELECT 1/0").fetchone() == (7,)
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            client.execute("TRUNCATE t")
