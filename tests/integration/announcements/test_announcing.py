"""Who is told of a change, of its end and of the cleanup, and what the ledger keeps of that."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backout import Project
from backout.errors import Refused, UsageError
from backout.runs.report import RunReport
from integration.announcements.listeners import WebListener, web_listener
from integration.postgres.stage import failure, text_of, yes

HEAD = (
    '-- /// change\n-- title = "Close the orders of Mr Secretname"\n-- risk = "Mr Secretname may call."\n'
    '-- mitigation = "We call Mr Secretname."\n-- data = "{data}"\n-- ///\n'
)


@pytest.fixture
def listener() -> Iterator[WebListener]:
    """A web server that is told things."""
    with web_listener() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, listener: WebListener, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shop in a file, whose environment "live" announces to "team"."""
    monkeypatch.setenv("TEAM_HOOK", f"{listener.url}/s3cret")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT); INSERT INTO orders VALUES (1, 'x')"
        )
    configure(tmp_path)
    return tmp_path


def configure(folder: Path, *, keep: str = "7 days", before: str = "1 ms", more: str = "") -> None:
    (folder / "backout.toml").write_text(
        '[channels.team]\nkind = "webhook"\nurl_env = "TEAM_HOOK"\nattempts = 1\ntimeout = "2 s"\n'
        f'[environments.live]\nurl = "sqlite:///{folder}/shop.db"\nkeep = "{keep}"\n'
        f'announce = {{to = ["team"], before = "{before}"}}\n{more}'
    )


def project(folder: Path) -> Project:
    return Project.find(folder / "backout.toml")


def change(folder: Path, data: str = "internal") -> Any:
    path = folder / "close.sql"
    path.write_text(HEAD.format(data=data) + "UPDATE orders SET status = status || 'y';\n")
    return project(folder).change(str(path))


def run(folder: Path, data: str = "internal") -> RunReport:
    found = change(folder, data)
    announced = project(folder).announce(found, "live")
    assert announced.told == ("team",)
    return project(folder).run(found, "live", ask=yes)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The statements of kind "announce" in the ledger."""
    with closing(sqlite3.connect(folder / ".backout" / "ledger.sqlite")) as connection:
        bodies = [
            json.loads(body)
            for (body,) in connection.execute("SELECT body FROM backout_ledger_entry ORDER BY position")
        ]
    statements = [json.loads(one["statement"]) for one in bodies if one.get("kind") == "statement"]
    return [one for one in statements if one["kind"] in ("announce", "retain")]


def test_an_announcement_says_what_is_to_run_and_how_to_object(folder: Path, listener: WebListener) -> None:
    """And from when on; the ledger keeps who was told what, by the database's clock."""
    configure(folder, before="24 hours")
    found = change(folder)
    announced = project(folder).announce(found, "live")
    ((path, body),) = listener.got
    assert path == "/s3cret"
    assert body["subject"] == "[live] to be run: close: Close the orders of Mr Secretname"
    assert 'To object: backout object close --on live --why "…"' in body["text"]
    assert "What could go wrong: Mr Secretname may call." in body["text"]
    assert body["digest"] == found.digest
    assert announced.earliest is not None
    assert announced.earliest - announced.at == timedelta(hours=24)
    (statement,) = ledger(folder)
    assert statement["details"]["to"] == ["team"]
    assert statement["details"]["database_at"] == announced.at.isoformat()
    assert statement["details"]["receipts"] == [one.as_json() for one in announced.receipts]
    error = failure(lambda: project(folder).run(found, "live", ask=yes))
    assert isinstance(error, Refused)
    assert "gives people 24 hours" in error.message


def test_of_phi_no_free_text_is_in_a_message(folder: Path, listener: WebListener) -> None:
    """Of any: what is announced, what is done, what is dropped."""
    configure(folder, keep="1 ms")
    report = run(folder, data="phi")
    project(folder).clean("live", [report.run])
    assert [body["event"] for _, body in listener.got] == ["announce", "done", "cleanup"]
    assert "Secretname" not in json.dumps(listener.got)
    assert "since the change says that its rows are PHI" in listener.got[0][1]["text"]


def test_the_end_of_a_run_and_of_an_undo_is_told(folder: Path, listener: WebListener) -> None:
    """With its tables, and how to take it back."""
    report = run(folder)
    project(folder).undo(report.identifier, "live", ask=yes)
    subjects = [body["subject"] for _, body in listener.got[1:]]
    title = "close: Close the orders of Mr Secretname"
    assert subjects == [f"[live] done: {title}", f"[live] undone: run live-1 of {title}"]
    text = listener.got[1][1]["text"]
    assert "main.orders: 0 inserted, 1 updated, 0 deleted" in text
    assert "To take it back: backout undo live-1" in text
    assert report.notes == ()
    assert [one["details"].get("event") for one in ledger(folder)] == [None, "done", "done"]


def test_a_notifier_that_fails_fails_no_run(folder: Path, listener: WebListener) -> None:
    """It is a note on the report, and the change is committed."""
    found = change(folder)
    project(folder).announce(found, "live")
    listener.answers = ((500, {}),)
    report = project(folder).run(found, "live", ask=yes)
    assert report.state == "committed"
    assert report.notes == ('"team" was not told: 500 Internal Server Error (1 attempts)',)


def test_an_announcement_that_reached_nobody_is_none(folder: Path, listener: WebListener) -> None:
    """The ledger has nothing of it, and the run is still refused."""
    listener.answers = ((403, {}),)
    found = change(folder)
    announced = project(folder).announce(found, "live")
    assert (announced.told, announced.recorded, announced.earliest) == ((), False, None)
    assert [one.answer for one in announced.refused] == ["403 Forbidden"]
    assert failure(lambda: project(folder).run(found, "live", ask=yes)).message.startswith("it was not announced")


def test_a_policy_that_names_nobody_cannot_be_announced_to(folder: Path) -> None:
    """Nor one that names a channel that there is not."""
    found = change(folder)
    text = (folder / "backout.toml").read_text()
    (folder / "backout.toml").write_text(text.replace('to = ["team"]', "to = []"))
    assert text_of(failure(lambda: project(folder).announce(found, "live"))) == [
        'nobody is named who is to be told of changes on "live"', "state: untouched",
        'hint: write announce = {to = ["dev-team"]} for "live", and [channels.dev-team]',
    ]  # fmt: skip
    (folder / "backout.toml").write_text(text.replace('to = ["team"]', 'to = ["teem"]'))
    assert text_of(failure(lambda: project(folder).announce(found, "live"))) == [
        'there is no channel "teem"', "state: untouched",
        'hint: write [channels.teem] with its kind: "webhook", "slack" or "email"',
    ]  # fmt: skip


# -- how long things are kept ------------------------------------------------------------------------------------------


def test_cleaning_tells_first_and_then_drops_rescue_and_backup(folder: Path, listener: WebListener) -> None:
    """Both are recorded: the journal and the backup's record say when."""
    configure(folder, keep="1 ms", more='backup = "sqlite"\n')
    report = run(folder)
    (backup,) = project(folder).expired_backups("live")
    assert report.backup is not None
    assert backup.identifier == report.backup["id"]
    project(folder).clean("live", [report.run], [backup.identifier])
    body = listener.got[-1][1]
    assert (body["event"], body["runs"], body["backups"]) == ("cleanup", ["live-1"], [backup.identifier])
    assert not Path(backup.places[0]).exists()
    assert project(folder).backups("live")[0].deleted_at is not None
    assert project(folder).log("live")[0].rescue_dropped_at is not None
    assert project(folder).expired_backups("live") == ()
    error = failure(lambda: project(folder).restore(backup.identifier, "live", replace_all=True, ask=yes))
    assert "was dropped on 20" in error.message


def test_nothing_is_dropped_while_nobody_can_be_told(folder: Path, listener: WebListener) -> None:
    """It can wait."""
    configure(folder, keep="1 ms", more='backup = "sqlite"\n')
    report = run(folder)
    (backup,) = project(folder).expired_backups("live")
    listener.answers = ((500, {}),)
    error = failure(lambda: project(folder).clean("live", [report.run], [backup.identifier]))
    assert text_of(error) == [
        'nothing was dropped, since nobody could be told: "team" was not told: 500 Internal Server Error (1 attempts)',
        "state: untouched", "hint: mend the channel, and clean again",
    ]  # fmt: skip
    assert Path(backup.places[0]).exists()
    assert project(folder).expired("live") != ()


def test_what_is_kept_by_order_does_not_expire(folder: Path) -> None:
    """Rescue and backup alike; the ledger says why, and until when."""
    configure(folder, keep="1 ms", more='backup = "sqlite"\n')
    report = run(folder)
    until = datetime.now(UTC) + timedelta(days=90)
    record, backup = project(folder).retain(report.identifier, until, "case 17")
    assert backup is not None
    assert record.expires_at is not None
    assert abs(record.expires_at - until) < timedelta(seconds=1)
    assert backup.expires_at == until
    assert project(folder).expired("live") == ()
    assert project(folder).expired_backups("live") == ()
    assert [one["details"] for one in ledger(folder) if one["kind"] == "retain"] == [
        {"run": "live-1", "until": until.isoformat(), "why": "case 17"}
    ]
    error = failure(lambda: project(folder).clean("live", [], [backup.identifier]))
    assert error.message == f'backup "{backup.identifier}" has not expired'


def test_keeping_needs_a_reason_a_later_time_and_something_to_keep(folder: Path) -> None:
    """Each is refused, and nothing is changed."""
    report = run(folder)
    soon, late = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) + timedelta(days=90)
    early = failure(lambda: project(folder).retain(report.identifier, soon, "case 17"))
    assert "is kept until 20" in early.message
    assert isinstance(failure(lambda: project(folder).retain(report.identifier, late, " ")), UsageError)
    undone = project(folder).undo(report.identifier, "live", ghost=True)
    ghost = failure(lambda: project(folder).retain(undone.identifier, late, "case 17"))
    assert ghost.message == f'"{undone.identifier}" kept nothing: it is rolled back'
