"""The demo's stage: a PostgreSQL server of its own with the clinic in it, and a project folder that knows it.

Not for: the story (`run`). Invariant: the server ends with the block that opened it, unless it is to be kept; then it
ends where the block fails.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from backout.cli.demo.story import CHANGE
from backout.engines.postgres.embedded import DISPOSABLE, EmbeddedServer
from backout.errors import UsageError

DATABASE = "clinic"
APPLICATION = "clinic_app"
OPERATOR = "backout"

CONFIG = f"""\
# The configuration of `backout demo`. The URL, with its password, is in a file that only you can read.

[project]
name = "clinic"

[undo]
bookkeeping = ["updated_at"]            # the application's trigger writes it: differing there alone is no conflict
append_only = ["audit_log"]             # what a run wrote there stays

[environments.demo]
url_file = "database-url"
role = "{APPLICATION}"                     # changes run under it; it has no right to journal and rescue
"""


@dataclass(frozen=True)
class Clinic:
    """The running demo: its server, the application's own way into it, and the project folder."""

    server: EmbeddedServer
    folder: Path
    app_password: str

    def psql(self, statement: str) -> str:
        """Run SQL as the application, as a colleague would; returns what psql prints."""
        url = self.server.url(DATABASE, user=APPLICATION)
        return _psql(self.server, url, self.app_password, f"\\unset QUIET\n{statement}\n").rstrip()


@contextmanager
def clinic(*, keep: bool) -> Iterator[Clinic]:
    """A clinic that is there inside of the block; with `keep` its server goes on when the block ends well.

    Raises UsageError where there is no PostgreSQL on this machine or no place for the folder.
    """
    folder = _folder()
    try:
        server = EmbeddedServer.start(folder / "server", settings=DISPOSABLE, keep_running=keep, ephemeral=not keep)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        yield _furnished(server, folder)
    except BaseException:
        server.stop()
        raise
    if not keep:
        server.stop()


def _folder() -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="backout-demo-"))
        folder.chmod(0o711)  # as root the server runs under an ordinary account, which must pass through
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"unable to make a folder for the demo: {reason}", hint="set TMPDIR to a writable one"
        ) from None
    return folder


def _furnished(server: EmbeddedServer, folder: Path) -> Clinic:
    """Make roles, database and tables, and write the project folder."""
    app_password, backout_password = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
    variables = {"app_password": app_password, "backout_password": backout_password}
    _psql(server, server.url(), "", _text("roles.sql"), variables)
    _psql(server, server.url(DATABASE, user=APPLICATION), app_password, _text("clinic.sql"))
    _write(folder / "database-url", server.url(DATABASE, user=OPERATOR, password=backout_password) + "\n")
    _write(folder / "backout.toml", CONFIG)
    (folder / "changes").mkdir()
    _write(folder / "changes" / f"{CHANGE}.sql", _text(f"{CHANGE}.sql"))
    return Clinic(server, folder, app_password)


def _psql(
    server: EmbeddedServer, url: str, password: str, text: str, variables: Mapping[str, str] | None = None
) -> str:
    """Send a script through PostgreSQL's own client, so that no driver is needed here; UsageError where it fails."""
    settings = {"ON_ERROR_STOP": "1", **(variables or {})}
    options = [f"--set={name}={value}" for name, value in settings.items()]
    command = [str(server.programs.path("psql")), "-X", "-q", *options, "--pset=pager=off", "--file=-", url]
    environment = without_pg(os.environ) | ({"PGPASSWORD": password} if password else {}) | {"PGCLIENTENCODING": "UTF8"}
    try:
        finished = subprocess.run(
            command, input=text, check=True, capture_output=True, text=True, encoding="utf-8", env=environment
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise UsageError(f"unable to set up the clinic: {said}", hint="please report it, with this line") from None
    return finished.stdout


def without_pg(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables without libpq's (PGHOST, PGOPTIONS …), which mean some other server."""
    return {name: value for name, value in variables.items() if not name.startswith("PG")}


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
