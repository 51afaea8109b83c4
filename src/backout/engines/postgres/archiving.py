"""Continuous archiving: a named restore point, and that the archive has it (manual 25.3).

Not for: base backups, which the archive needs and this cannot see. Invariant: a restore point counts only after the
server itself has said that the log with it is archived.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from time import monotonic, sleep

from backout.engines.postgres.session import Session
from backout.engines.values import Settings
from backout.errors import BackoutError, Refused

PATIENCE_S = 60.0  # archive_timeout's usual magnitude; an archiver that works takes seconds for one segment of 16 MB
_BETWEEN_S = 0.2


@dataclass(frozen=True)
class RestorePoint:
    """A named place in the write-ahead log; `log_file` is archived."""

    name: str
    made_at: datetime  # the database's clock
    server_version: str
    database: str
    lsn: str
    log_file: str


def make_restore_point(settings: Settings, prefix: str, patience_s: float = PATIENCE_S) -> RestorePoint:
    """Make one, end its log file, and wait until that is archived. Refused, with the rows untouched, where it is not."""
    session = Session(settings.url, "backup")
    try:
        _require_archiving(session)
        now, version, database = session.one(
            "SELECT pg_catalog.clock_timestamp(), current_setting('server_version'), current_database()"
        )
        name = f"{prefix[:40]}-{now:%Y%m%dT%H%M%S%fZ}"  # a restore point's name has at most 63 bytes (manual 9.28.3)
        lsn = _ask(session, "SELECT pg_catalog.pg_create_restore_point($1)::text", [name])
        file = _ask(session, "SELECT pg_catalog.pg_walfile_name($1::text::pg_lsn)", [lsn])
        _ask(session, "SELECT pg_catalog.pg_switch_wal()::text", [])
        _wait(session, file, patience_s)
    finally:
        session.close()
    return RestorePoint(name, now, version.split(" ")[0], database, lsn, file)


def _require_archiving(session: Session) -> None:
    mode, level, command, library = session.one(
        "SELECT current_setting('archive_mode'), current_setting('wal_level'), current_setting('archive_command'), "
        "current_setting('archive_library')"
    )
    if mode == "off" or level == "minimal" or not (library or command not in ("", "(disabled)")):
        raise Refused(
            "backup", f"this server archives nothing: archive_mode is {mode}, wal_level is {level}",
            hint='set up continuous archiving (manual 25.3), or another provider than "pitr"',
        )  # fmt: skip


def _ask(session: Session, text: str, parameters: list[str]) -> str:
    try:
        return str(session.value(text, parameters))
    except BackoutError as error:
        login = session.value("SELECT session_user::text") if not session.lost else "…"
        raise Refused(
            "backup", f"no restore point could be made: {error.message}",
            hint="let an administrator run: GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal(), "
            f'pg_walfile_name(pg_lsn) TO "{login}"',
        ) from None  # fmt: skip


def _wait(session: Session, file: str, patience_s: float) -> None:
    """Until the archiver has it. Names of log files sort by time within a timeline; suffixes are of other files."""
    deadline = monotonic() + patience_s
    while True:
        last, failed, failed_later = session.one(
            "SELECT last_archived_wal, last_failed_wal, last_failed_time > coalesce(last_archived_time, '-infinity') "
            "FROM pg_catalog.pg_stat_archiver"
        )
        if last is not None and last[:24] >= file:
            return
        if monotonic() > deadline:
            reason = f': archiving "{failed}" fails' if failed_later else ""
            raise Refused(
                "backup", f'the log "{file}" with the restore point was not archived within {patience_s:g} s{reason}',
                hint="look at the server's log for what archive_command says, and at pg_stat_archiver",
            )  # fmt: skip
        sleep(_BETWEEN_S)
