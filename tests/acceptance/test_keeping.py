"""Backups, announcements and retention as they are typed, with what `--json` promises."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from acceptance.program import backout, told
from integration.announcements.listeners import web_listener

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a');"


def shop(folder: Path, keep: str = "7 days", more: str = "") -> Path:
    for name, content in (("live", TABLE), ("spare", "")):
        with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
            connection.executescript(f"VACUUM; {content}")
    (folder / "changes").mkdir()
    (folder / "changes" / "close.sql").write_text(
        "-- /// change\n-- title = \"Close\"\n-- ///\nUPDATE t SET v = 'b';\n"
    )
    (folder / "backout.toml").write_text(
        f'[environments.live]\nurl = "sqlite:///{folder}/live.db"\nkeep = "{keep}"\nbackup = "sqlite"\n{more}'
        f'[environments.spare]\nurl = "sqlite:///{folder}/spare.db"\n'
    )
    return folder


def rows(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT id, v FROM t").fetchall()


def test_a_backup_is_made_listed_and_restored(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    assert backout(folder, "backups", "--on", "live").out == "no backups yet\n"
    made = told(folder, "backup", "backup", "--on", "live")
    listed = told(folder, "backups", "backups", "--on", "live")
    assert listed["backups"] == [made]
    shown = backout(folder, "backups", "--on", "live").out
    assert made["id"] in shown
    restored = told(folder, "restore", "restore", made["id"], "--to", "spare", "--yes")
    assert (restored["restored"], restored["to"], restored["note"]) == (made, "spare", None)
    assert rows(folder / "spare.db") == [(1, "a")]
    again = backout(folder, "restore", made["id"], "--to", "spare", "--yes")
    assert (again.status, again.err) == (
        3,
        'error: "spare" holds tables, which a restore replaces\nstate: untouched\n'
        "hint: restore into an empty database, or say --replace\n",
    )
    unknown = backout(folder, "restore", "live-1", "--to", "spare", "--yes")
    assert unknown.status == 2


def test_a_run_says_which_backup_precedes_it_and_clean_drops_both(tmp_path: Path) -> None:
    folder = shop(tmp_path, keep="1 ms")
    run = told(folder, "run", "run", "close", "--on", "live", "--yes")
    (backup,) = told(folder, "backups", "backups", "--on", "live")["backups"]
    assert run["backup"] == backup
    due = told(folder, "clean", "clean", "--on", "live", "--dry-run")
    assert [one["run"] for one in due["expired"]] == [1]
    assert (due["dropped"], due["dropped_backups"], due["expired_backups"]) == ([], [], [backup])
    kept = told(folder, "retain", "retain", "live-1", "--until", "2100-01-01", "--why", "case 17")
    assert kept["backup"] == backup["id"]
    assert kept["run"]["expires_at"].startswith("2100-01-01")
    assert (
        backout(folder, "clean", "--on", "live", "--yes").out == "nothing to do: no rescue and no backup has expired\n"
    )
    early = backout(folder, "retain", "live-1", "--until", "tomorrow", "--why", "x")
    assert early.err.startswith('error: "tomorrow" is not a day\nstate: untouched\n')


def test_clean_drops_what_is_due(tmp_path: Path) -> None:
    folder = shop(tmp_path, keep="1 ms")
    told(folder, "run", "run", "close", "--on", "live", "--yes")
    (backup,) = told(folder, "backups", "backups", "--on", "live")["backups"]
    dropped = told(folder, "clean", "clean", "--on", "live", "--yes")
    assert (dropped["dropped"], dropped["dropped_backups"]) == ([1], [backup["id"]])
    assert not Path(backup["places"][0]).exists()
    assert told(folder, "backups", "backups", "--on", "live")["backups"][0]["deleted_at"] is not None


def test_an_announcement_that_reaches_nobody_is_exit_status_3(tmp_path: Path) -> None:
    more = 'announce = {to = ["team"]}\n'
    folder = shop(tmp_path, more=more)
    with (folder / "backout.toml").open("a") as file:
        file.write('[channels.team]\nkind = "webhook"\nurl_file = "hook"\nattempts = 1\n')
    with web_listener((404, {}), (200, {}), (200, {})) as listener:
        (folder / "hook").write_text(f"{listener.url}/s3cret\n")
        refused = backout(folder, "announce", "close", "--on", "live")
        assert refused.status == 3
        assert "404 Not Found" in refused.out
        assert "s3cret" not in refused.out + refused.err
        said = told(folder, "announce", "announce", "close", "--on", "live")
        unused = backout(folder, "announce", "close", "--on", "live", "--key", "id_ed25519").err
    assert (said["told"], said["recorded"]) == (["team"], True)
    assert [one["answer"] for one in said["receipts"]] == ["200 OK"]
    assert unused == "note: the receipt is unsigned: the account's name is believed, and the key was not used\n"
