"""A program's session where the server wants TLS: as safe as libpq's own, captured, undone.

Whatever libpq says no to, the relay says no to as well: both are asked, on a real server.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urlsplit

import psycopg
import pytest

from backout import Project
from backout.endpoint.server import Endpoint
from backout.engines.postgres import tls
from backout.engines.postgres.account import server_account
from backout.engines.postgres.loan import lend, session_to_lend
from backout.engines.postgres.session import Session
from backout.engines.postgres.tls import Server
from backout.engines.values import RunState
from backout.errors import Refused, UsageError
from certificates import Authority, Certificate, authority, has_openssl
from integration.postgres.stage import yes
from servers import PASSWORD, PostgresDatabase, PostgresServers, present

VERSION = "pg15"  # Debian's: the wheels' servers need not have TLS
pytestmark = [
    pytest.mark.skipif(VERSION not in present(), reason="NOT TESTED: there is no PostgreSQL 15"),
    pytest.mark.skipif(not has_openssl(), reason="NOT TESTED: openssl is not installed"),
]
SCHEMA = """
CREATE TABLE patient (id integer PRIMARY KEY, name text NOT NULL);
INSERT INTO patient SELECT g, 'p' || g FROM generate_series(1, 5) g;
"""
#: What the server says of the session itself: which TLS. As the superuser, since others do not see it.
AS_SEEN = """
CREATE FUNCTION tls() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS
    'SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl'
"""
SEEN = "UPDATE patient SET name = tls() WHERE id = 1"


@dataclass(frozen=True)
class Place:
    """A server with TLS, whom to trust, and somebody whom not to."""

    servers: PostgresServers
    folder: Path
    trusted: Authority
    stranger: Authority
    certificates: dict[str, Certificate]

    def show(self, name: str) -> None:
        """From now on the server shows this certificate."""
        for kind in ("certificate", "key"):
            target = self.folder / f"server.{kind}"
            source: Path = getattr(self.certificates[name], kind)
            target.write_bytes(source.read_bytes())
        with psycopg.connect(self.servers.server(VERSION).url(), autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            while self._shown() != ssl.PEM_cert_to_DER_cert((self.folder / "server.certificate").read_text()):
                pass  # the postmaster has the signal, and reads

    def _shown(self) -> bytes | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.servers.server(VERSION).port)) as plain:
            plain.sendall(struct.pack("!II", 8, 80877103))
            assert plain.recv(1) == b"S"
            with context.wrap_socket(plain) as secured:
                return secured.getpeercert(binary_form=True)


@pytest.fixture(scope="module")
def place(worker_id: str) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="backout-test-tls-", dir="/tmp"))
    folder.chmod(0o711)
    trusted, stranger = authority(folder / "trusted", "an authority"), authority(folder / "stranger", "a stranger")
    certificates = {
        "localhost": trusted.sign("localhost", "server", "DNS:localhost,IP:127.0.0.1"),
        "common name": trusted.sign("common", "localhost"),
        "wildcard": trusted.sign("wildcard", "server", "DNS:*.clinic.example"),
        "another": trusted.sign("another", "server", "DNS:another.example"),
    }
    account = server_account()
    for kind in ("certificate", "key"):
        (folder / f"server.{kind}").write_bytes(getattr(certificates["localhost"], kind).read_bytes())
        if account is not None:
            os.chown(folder / f"server.{kind}", account.uid, account.gid)
    (folder / "server.key").chmod(0o600)
    (folder / "root.crt").write_bytes(trusted.root.read_bytes())
    files = {name: str(folder / f"server.{kind}") for name, kind in (("cert", "certificate"), ("key", "key"))}
    more = {
        "ssl": "on",
        "ssl_ca_file": str(folder / "root.crt"),
        **{f"ssl_{name}_file": one for name, one in files.items()},
    }
    servers = PostgresServers(worker_id, more)
    yield Place(servers, folder, trusted, stranger, certificates)
    servers.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of somebody without files of libpq's, and without its variables."""
    for name in [one for one in os.environ if one.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".postgresql").mkdir()
    return tmp_path


@pytest.fixture
def secured(place: Place, home: Path) -> Iterator[PostgresDatabase]:
    """A database on the server with TLS."""
    database = place.servers.create_database(VERSION)
    database.as_application(SCHEMA)
    database.execute(AS_SEEN)
    place.show("localhost")
    yield database
    place.servers.drop_database(VERSION, database)


def url_of(database: PostgresDatabase, host: str = "localhost", **more: object) -> str:
    parts = urlsplit(database.login_url)
    address = {"hostaddr": "127.0.0.1"} if host != "localhost" else {}
    return (
        f"postgresql://{parts.username}:{parts.password}@{host}:{parts.port}{parts.path}?"
        + urlencode({**address, **more}, quote_via=quote)
    )  # fmt: skip


def project_at(folder: Path, database: PostgresDatabase, url: str, program: str, more: str = "") -> Project:
    """Its one change is a program in Python with psycopg; `connection` is open."""
    (folder / "changes").mkdir()
    settings = f'url = "{url}"\nrole = "{database.application_role}"\n{more}'
    (folder / "backout.toml").write_text(f"[environments.staging]\n{settings}")
    head = f'# /// change\n# title = "Mend"\n# run = ["{sys.executable}", "{{file}}"]\n# ///\n'
    body = "import os, psycopg\nconnection = psycopg.connect(os.environ['DATABASE_URL'])\n"
    (folder / "changes" / "mend.py").write_text(head + body + textwrap.dedent(program))
    return Project.find(start=folder)


def patients(database: PostgresDatabase) -> list[tuple[object, ...]]:
    return [tuple(row) for row in database.execute("SELECT id, name FROM patient ORDER BY id")]


PROGRAM = f"""
    connection.execute({SEEN!r})
    with connection.cursor() as cursor, cursor.copy("COPY patient FROM STDIN") as copy:
        for number in range(100, 20_100):
            copy.write_row((number, "copied " * 20))
    connection.commit()
    assert len(connection.execute("SELECT * FROM patient").fetchall()) == 20_005
    """


def test_program_on_a_server_with_tls_is_captured_proven_and_undone(
    secured: PostgresDatabase, place: Place, home: Path
) -> None:
    url = url_of(secured, sslmode="verify-full", sslrootcert=place.trusted.root)
    project = project_at(home, secured, url, PROGRAM)
    start = patients(secured)

    ghost = project.ghost(project.change("mend"), "staging", undo=True, ask=yes)
    assert (ghost.way_back, patients(secured)) == ("proven", start)
    run = project.run(project.change("mend"), "staging", ask=yes)
    assert run.outcome is RunState.COMMITTED
    assert {one.table: (one.inserted, one.updated) for one in run.tables} == {"public.patient": (20_000, 1)}
    assert patients(secured)[0] == (1, "TLSv1.3")

    project.undo(run.identifier, ask=yes)
    assert patients(secured) == start


def test_program_in_batches_goes_through_tls(secured: PostgresDatabase, place: Place, home: Path) -> None:
    program = """
        connection.autocommit = True
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        while (batch := connection.execute("SELECT * FROM backout.next_batch()").fetchone()) is not None:
            assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
            connection.execute("UPDATE patient SET name = name || '!' WHERE " + batch[3])
        """
    project = project_at(home, secured, url_of(secured, sslmode="verify-full", sslrootcert=place.trusted.root), program)
    file = home / "changes" / "mend.py"
    batch = '# batch = {table = "patient", by = "id", size = 2}\n'
    file.write_text(file.read_text().replace("# ///\n", batch + "# ///\n", 1))
    start = patients(secured)

    run = project.run(project.change("mend"), "staging", ask=yes)

    assert run.outcome is RunState.COMMITTED
    assert patients(secured) == [(number, f"{name}!") for number, name in start]
    project.undo(run.identifier, ask=yes)
    assert patients(secured) == start


def test_settings_are_found_where_libpq_finds_them(
    secured: PostgresDatabase, place: Place, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(secured.login_url)
    (home / "passwords").write_text(f"localhost:{parts.port}:*:{parts.username}:{PASSWORD}\n")
    (home / "passwords").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(home / "passwords"))
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    (home / ".postgresql" / "root.crt").write_bytes(place.trusted.root.read_bytes())
    project = project_at(
        home, secured, f"postgresql://{parts.username}@localhost:{parts.port}{parts.path}",
        f"connection.execute({SEEN!r})\nconnection.commit()\n",
    )  # fmt: skip

    project.run(project.change("mend"), "staging", ask=yes)

    assert patients(secured)[0] == (1, "TLSv1.3")


def test_certificate_of_the_client_is_shown(secured: PostgresDatabase, place: Place, home: Path) -> None:
    """And where the server lets nobody in without TLS."""
    own = place.trusted.sign("client", secured.login_role)
    rules = secured.server.data_directory / "cluster" / "pg_hba.conf"
    text = rules.read_text()
    who = f"{secured.name} {secured.login_role} 127.0.0.1/32"
    rules.write_text(f"hostssl {who} cert\nhostnossl {who} reject\n{text}")
    secured.execute("SELECT pg_reload_conf()")
    url = url_of(secured, sslmode="allow", sslcert=own.certificate, sslkey=own.key)
    project = project_at(home, secured, url, f"connection.execute({SEEN!r})\nconnection.commit()\n")

    project.run(project.change("mend"), "staging", ask=yes)

    assert patients(secured)[0] == (1, "TLSv1.3")
    rules.write_text(text)


ROOTS = ("trusted", "stranger", "at home", "a stranger at home", "none", "missing")


def is_let_in_by_libpq(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url) as connection:
        return connection.pgconn.ssl_in_use
    return False


def is_let_in_by_us(database: PostgresDatabase, url: str) -> bool:
    given = psycopg.conninfo.conninfo_to_dict(url)
    settings = {name: str(value) for name, value in given.items()}
    with suppress(Refused):
        tls.connect(Server("127.0.0.1", database.server.port, settings)).close()
        return True
    return False


@pytest.mark.parametrize("shown", ["localhost", "common name", "wildcard", "another"])
def test_nobody_is_believed_whom_libpq_does_not_believe(
    secured: PostgresDatabase, place: Place, home: Path, shown: str
) -> None:
    place.show(shown)
    at_home = home / ".postgresql" / "root.crt"
    hosts = (
        "localhost",
        "127.0.0.1",
        "one.clinic.example",
        "two.one.clinic.example",
        "another.example",
        "clinic.example",
    )
    said = {}
    for root in ROOTS:
        at_home.unlink(missing_ok=True)
        if "at home" in root:
            at_home.write_bytes((place.stranger if "stranger" in root else place.trusted).root.read_bytes())
        more = {
            "trusted": {"sslrootcert": place.trusted.root}, "stranger": {"sslrootcert": place.stranger.root},
            "missing": {"sslrootcert": home / "nothing.crt"},
        }.get(root, {})  # fmt: skip
        for mode in ("prefer", "require", "verify-ca", "verify-full"):
            for host in hosts:
                url = url_of(secured, host, sslmode=mode, **more)
                said[root, mode, host] = (is_let_in_by_libpq(url), is_let_in_by_us(secured, url))
    assert {one: both for one, both in said.items() if both[1] and not both[0]} == {}, "laxer than libpq"
    assert {one: both for one, both in said.items() if both[0] != both[1]} == {}, (
        "stricter than libpq, where we need not be"
    )
    assert {both[1] for both in said.values()} == {True, False}
    assert said["a stranger at home", "require", "localhost"] == (False, False), "as verify-ca: manual 32.19.1"


def test_certificate_that_was_revoked_is_not_believed(secured: PostgresDatabase, place: Place, home: Path) -> None:
    for revoked, expected in (((), True), ((place.certificates["localhost"],), False)):
        lists = place.trusted.revoke(*revoked)
        url = url_of(secured, sslmode="verify-full", sslrootcert=place.trusted.root, sslcrl=lists)
        assert is_let_in_by_libpq(url) is expected
        assert is_let_in_by_us(secured, url) is expected


def test_certificate_for_another_host_ends_the_run_before_it_begins(
    secured: PostgresDatabase, place: Place, home: Path
) -> None:
    url = url_of(secured, "clinic.example", sslmode="verify-full", sslrootcert=place.trusted.root)
    project = project_at(home, secured, url, "raise SystemExit")

    with pytest.raises(UsageError, match=r'server certificate for "localhost" .* does not match host name'):
        project.run(project.change("mend"), "staging", ask=yes)


@pytest.mark.parametrize(
    ("more", "said", "hint"),
    [
        ({"channel_binding": "require"}, "channel_binding=require binds the password", "sslmode=verify-full keeps out"),
        ({"require_auth": "scram-sha-256"}, "require_auth keeps out whoever is in between", "say sslmode=verify-full"),
        ({"sslcertmode": "require"}, "sslcertmode=require cannot be watched over", "take it out"),
    ],
)
def test_what_could_not_be_as_safe_as_with_libpq_is_refused_with_a_way_out(
    secured: PostgresDatabase, place: Place, home: Path, more: dict[str, str], said: str, hint: str
) -> None:
    if "sslcertmode" in more:
        own = place.trusted.sign("client", secured.login_role)
        more = {**more, "sslcert": str(own.certificate), "sslkey": str(own.key)}
    project = project_at(home, secured, url_of(secured, sslmode="require", **more), "raise SystemExit")
    project.init_journal("staging")

    with pytest.raises(Refused) as caught:
        project.run(project.change("mend"), "staging", ask=yes)

    assert caught.value.message.startswith(f"no TLS connection for the program's session: {said}")
    assert (caught.value.hint or "").startswith(hint)


def test_server_without_tls_is_said_to_have_none(postgres_servers: PostgresServers, home: Path) -> None:
    port = postgres_servers.server(VERSION).port

    with pytest.raises(Refused) as caught:
        tls.connect(Server("127.0.0.1", port, {"host": "localhost", "sslmode": "require"}))

    assert caught.value.message == 'no TLS connection to "localhost" for the program\'s session: it does not do TLS'


def test_bytes_in_clear_behind_the_answer_are_not_believed(home: Path) -> None:
    """Whoever is in between could else put words into the server's mouth (CVE-2021-23222)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as client:
                client.recv(8)
                client.sendall(b"S" + b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I")
                with suppress(OSError):
                    client.recv(1 << 16)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Refused, match=r"wrong version number|record layer failure"):
            tls.connect(Server("127.0.0.1", listening.getsockname()[1], {"sslmode": "require"}))
        thread.join()


@pytest.fixture
def relayed(secured: PostgresDatabase) -> Iterator[Session]:
    """A session to lend on the server with TLS."""
    url = url_of(secured, sslmode="require")
    control = Session(url, "journal")
    session = session_to_lend(control, url, "run")
    yield session
    session.close()
    control.close()


def test_another_process_of_this_account_is_not_let_into_the_relay(relayed: Session) -> None:
    place = Path(relayed.connection.info.host) / ".s.PGSQL.5432"
    text = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(place)!r}); print(s.recv(9) == b'')"
    said = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    assert said == "True\n"
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert relayed.value("SELECT 7") == 7
    relayed.close()
    assert not place.parent.exists()


def test_statement_of_a_client_is_cancelled_through_tls(relayed: Session) -> None:
    relayed.run("BEGIN")
    with lend(relayed) as loan, Endpoint(loan, user="u") as endpoint:
        client = psycopg.connect(endpoint.url, autocommit=True)
        timer = threading.Timer(0.3, client.cancel_safe)  # the other one keeps the endpoint's threads out meanwhile
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("SELECT pg_sleep(60)")
        timer.join()
        assert client.execute("SELECT 7").fetchone() == (7,)
        client.close()
        endpoint.close()
        assert endpoint.record.problems == []
    assert relayed.value("SELECT 8") == 8


def test_session_is_at_home_for_a_moment_while_it_is_lent(relayed: Session) -> None:
    relayed.run("BEGIN")

    def look() -> list[tuple[str, str, str, str]]:
        return [("t", "+", str(relayed.value("SELECT pg_backend_pid()")), "a")]

    with lend(relayed) as loan, Endpoint(loan, user="u", look=look) as endpoint:
        with psycopg.connect(endpoint.url, autocommit=True) as client:
            for _ in range(3):
                shown = client.execute('SHOW "backout.diff"', prepare=False)
                assert shown.statusmessage == "SHOW"
                assert client.pgconn.exec_(b'SHOW "backout.diff"').get_value(0, 2) == str(relayed.pid).encode()
                assert client.execute("SELECT 7").fetchone() == (7,)
        endpoint.close()
        assert endpoint.record.problems == []
    assert relayed.value("SELECT 8") == 8


def test_session_that_the_server_ends_is_lost_behind_tls_as_well(relayed: Session, secured: PostgresDatabase) -> None:
    relayed.run("BEGIN")
    with lend(relayed) as loan, Endpoint(loan, user="u") as endpoint:
        client = psycopg.connect(endpoint.url, autocommit=True)
        client.execute("SELECT 1")
        secured.execute("SELECT pg_terminate_backend(%s)", [relayed.pid])
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 2")
        client.close()
        endpoint.close()
        assert "the session was lost" in endpoint.record.problems[0]
    assert unquote(PASSWORD) not in repr(endpoint.record.problems)


def test_connection_that_libpq_has_encrypted_is_not_lent(secured: PostgresDatabase) -> None:
    session = Session(url_of(secured, sslmode="require"), "run")
    with pytest.raises(Refused, match="is encrypted by libpq, which keeps the keys"), lend(session):
        pass
    session.close()
