"""The command line as it is typed: mistakes, interruptions, closed pipes, and a real terminal that asks and answers."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from acceptance.program import PROGRAM, Finished, backout, environment, told
from servers import PostgresDatabase

HEAD = '-- /// change\n-- title = "A change"\n-- ///\n'
CLOSE = HEAD + "UPDATE orders SET status = 'closed' WHERE status = 'open';\n"
TABLES = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL);"
    "INSERT INTO orders VALUES (1, 'open'), (2, 'open'), (3, 'paid')"
)
BEFORE = [(1, "open"), (2, "open"), (3, "paid")]
AFTER = [(1, "closed"), (2, "closed"), (3, "paid")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with the environments "shop" and "spare" on SQLite, and the change "close"."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript(TABLES)
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "close.sql").write_text(CLOSE)
    (tmp_path / "backout.toml").write_text(
        f'[environments.shop]\nurl = "sqlite:///{tmp_path}/shop.db"\n'
        f'[environments.spare]\nurl = "sqlite:///{tmp_path}/spare.db"\n'
    )
    return tmp_path


def orders(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        return connection.execute("SELECT id, status FROM orders ORDER BY id").fetchall()


# -- mistakes ----------------------------------------------------------------------------------------------------------

BROKEN = [
    (
        CLOSE.replace('"A change"', '"A change'),
        ("{change}:2:21: not valid TOML: illegal character '\\n'\nstate: untouched\n"),
    ),
    (
        "UPDATE orders SET status = 'closed';\n",
        (
            "{change}:1:1: no metadata block before the first statement\n"
            "state: untouched\n"
            "hint: begin the file with:\n"
            "-- /// change\n"
            '-- title = "What this change does, in one sentence"\n'
            "-- ///\n"
        ),
    ),
    (
        CLOSE.replace("-- title", "-- titel"),
        ('{change}:2:4: unknown key "titel"\nstate: untouched\nhint: did you mean "title"?\n'),
    ),
    (
        CLOSE.replace("UPDATE", "-- @expct 2\nUPDATE"),
        (
            '{change}:4:4: unknown directive "@expct"\n'
            "state: untouched\n"
            'hint: did you mean "@expect"? known are: @after, @assert, @batch, @expect, @post, @pre, @subset\n'
        ),
    ),
    (
        CLOSE.replace("'closed'", ":status"),
        (
            '{change}:4:28: parameter "status" is not declared\n'
            "state: untouched\n"
            "hint: declare it under [parameters] in the metadata block\n"
        ),
    ),
    (
        CLOSE.replace("UPDATE", "UPDAET"),
        (
            '{change}:4:1: a statement cannot begin with "UPDAET"\n'
            "state: untouched\n"
            "hint: a statement begins with SELECT, VALUES, WITH, INSERT, REPLACE, UPDATE or DELETE\n"
        ),
    ),
    (
        HEAD,
        (
            "{change}:3:1: the change has no statement to apply\n"
            "state: untouched\n"
            "hint: write one after the metadata block\n"
        ),
    ),
]


@pytest.mark.parametrize(("text", "error"), BROKEN)
@pytest.mark.parametrize("verb", ["check", "run"])
def test_broken_change_file_is_named_with_its_place(folder: Path, text: str, error: str, verb: str) -> None:
    change = folder / "changes" / "close.sql"
    change.write_text(text)

    said = backout(folder, verb, "close", "--on", "shop", *(["--yes"] if verb == "run" else []))

    assert said == Finished(2, "", "error: " + error.replace("{change}", str(change)))
    assert orders(folder) == BEFORE


MISTAKES = [
    (
        ["run", "close", "--on", "shpo"],
        (
            'no environment "shpo" in {folder}/backout.toml\nstate: untouched\n'
            'hint: did you mean "shop"? known are: shop, spare\n'
        ),
    ),
    (
        ["run", "close", "--on", "spare", "--yes"],
        (
            'database "{folder}/spare.db" does not exist\nstate: untouched\n'
            "hint: check the path in the URL: backout never creates a database file\n"
        ),
    ),
    (
        ["run", "close", "--on", "oracle://root@localhost/shop"],
        (
            'no engine for URLs that begin with "oracle:"\nstate: untouched\n'
            "hint: known are postgresql://, mariadb:// and sqlite:///path/to/file\n"
        ),
    ),
    (
        ["run", "close", "--on", "sqlite://localhost/shop.db"],
        (
            '"sqlite://localhost/shop.db" names a host\nstate: untouched\n'
            "hint: SQLite URLs have three slashes: sqlite:///relative/path.db\n"
        ),
    ),
    (
        ["run", "clsoe", "--on", "shop"],
        (
            'no change "clsoe": there is no such file, nor one in "{folder}/changes"\nstate: untouched\n'
            'hint: did you mean "close"?\n'
        ),
    ),
    (
        ["run", "close", "--on", "shop", "--param", "status=x"],
        (
            'change "close" has no parameter "status"\nstate: untouched\n'
            "hint: it has no parameters that differ per environment\n"
        ),
    ),
    (
        ["ghost", "close", "--on", "shop", "--rows", "-1"],
        "invalid value for '--rows': -1 is not in the range x>=0\nstate: untouched\nhint: backout ghost --help\n",
    ),
    (
        ["run", "close", "--on", "shop"],
        (
            'no answer, and nobody to ask: make the journal (schema "backout") in {folder}/shop.db as "shop"?\n'
            "state: untouched\nhint: answer it with --yes\n"
        ),
    ),
    (
        ["undo", "shop-7", "--yes"],
        'there is no run 7 on "shop"\nstate: untouched\nhint: list them: backout log --on shop\n',
    ),
    (
        ["show", "7", "--on", "shop"],
        'there is no run 7 on "shop"\nstate: untouched\nhint: list them: backout log --on shop\n',
    ),
    (
        ["undo", "7"],
        'on which environment is run "7"?\nstate: untouched\nhint: add --on ENV, or write ENV-7\n',
    ),
    (
        ["undo", "latest", "--on", "shop"],
        (
            '"latest" is not a run\nstate: untouched\n'
            "hint: name it by number, like 41 or production-41; see `backout log`\n"
        ),
    ),
]


@pytest.mark.parametrize(("arguments", "error"), MISTAKES)
def test_mistake_is_named_with_the_way_out(folder: Path, arguments: list[str], error: str) -> None:
    said = backout(folder, *arguments)

    assert said == Finished(2, "", "error: " + error.replace("{folder}", str(folder)))
    assert orders(folder) == BEFORE


def test_mistake_with_json_is_an_object(folder: Path) -> None:
    told(folder, "error", "run", "close", "--on", "shpo", status=2)
    told(folder, "error", "ghost", "close", "--on", "shop", "--rows", "-1", status=2)
    told(folder, "error", "undo", "7", status=2)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "url =",
            "ulr =",
            (':2:1: unknown key "ulr" in [environments.shop]\nstate: untouched\nhint: did you mean "url"?\n'),
        ),
        (
            "[environments.shop]",
            "[environments.shop",
            ":1:19: not valid TOML: expected ']' at the end of a table declaration\nstate: untouched\n",
        ),
        (
            "[environments.shop]\n",
            '[environments.shop]\nkeep = "a while"\n',
            (
                ':2:1: key "keep" may not be "a while"\nstate: untouched\n'
                'hint: write a number and its unit: "5 seconds", "2 min", "24 hours", "7 days"; '
                "a bare number is seconds\n"
            ),
        ),
    ],
)
def test_mistake_in_the_configuration_is_named_with_its_place(folder: Path, old: str, new: str, error: str) -> None:
    config = folder / "backout.toml"
    config.write_text(config.read_text().replace(old, new, 1))

    said = backout(folder, "run", "close", "--on", "shop", "--yes")

    assert said == Finished(2, "", f"error: {config}{error}")


def test_missing_parameter_is_asked_for(folder: Path) -> None:
    text = '-- [parameters]\n-- status = {type = "text", per_environment = true}\n-- ///\n'
    (folder / "changes" / "close.sql").write_text(CLOSE.replace("-- ///\n", text, 1).replace("'closed'", ":status"))

    said = backout(folder, "run", "close", "--on", "shop", "--yes")

    assert said == Finished(
        2,
        "",
        (
            'error: parameter "status" of change "close" has no value for "shop"\n'
            "state: untouched\n"
            "hint: give it text: --param status=…\n"
        ),
    )


def test_change_of_another_dialect_is_refused(folder: Path) -> None:
    path = folder / "changes" / "close.sql"
    path.write_text(CLOSE.replace("-- ///\n", '-- dialect = "postgres"\n-- ///\n', 1))

    said = backout(folder, "run", "close", "--on", "shop", "--yes")

    assert said == Finished(
        2,
        "",
        (
            'error: change "close" is written for postgres, and "shop" is sqlite\n'
            "state: untouched\n"
            "hint: take out `dialect` of its metadata if its statements fit both\n"
        ),
    )


def test_server_that_is_not_there_is_named_without_the_password(folder: Path) -> None:
    said = backout(folder, "run", "close", "--on", "postgresql://ada:s3cret@127.0.0.1:1/shop", "--yes")

    assert said.status == 2
    assert said.err.startswith("error: unable to connect to postgresql://ada:***@127.0.0.1:1/shop: connection")
    assert said.err.endswith("\nstate: untouched\nhint: check host and port, and that the server runs\n")
    assert "s3cret" not in said.out + said.err


def test_wrong_password_is_not_repeated(folder: Path, postgres18: PostgresDatabase) -> None:
    url = postgres18.server.url(postgres18.name, user=postgres18.login_role, password="mist4ken")

    said = backout(folder, "log", "--on", url)

    assert said.status == 2
    assert said.err.endswith(
        "\nstate: untouched\nhint: check the password: it comes from the url, PGPASSWORD or ~/.pgpass\n"
    )
    assert "mist4ken" not in said.out + said.err


# -- interruptions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(postgres18: PostgresDatabase, tmp_path: Path) -> Path:
    """A project whose change first writes, and then takes its time."""
    postgres18.as_application(TABLES)
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "slow.sql").write_text(CLOSE + "SELECT pg_sleep(100);\n")
    (tmp_path / "changes" / "slow-script.py").write_text(
        '# /// change\n# title = "A slow script"\n# ///\nimport time\n\n\ndef apply(db):\n'
        "    db.execute(\"UPDATE orders SET status = 'closed'\")\n    db.execute('SELECT pg_sleep(100)')\n"
    )
    (tmp_path / "backout.toml").write_text(
        f'[environments.shop]\nurl = "{postgres18.login_url}"\nrole = "{postgres18.application_role}"\n'
    )
    return tmp_path


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("change", ["slow", "slow-script"])
def test_interrupted_run_is_rolled_back_and_says_so(
    slow: Path, postgres18: PostgresDatabase, number: signal.Signals, change: str
) -> None:
    with subprocess.Popen(
        [str(PROGRAM), "run", change, "--on", "shop", "--yes"],
        cwd=slow,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        wait_until(lambda: postgres18.execute(asleep) == [(1,)])
        running.send_signal(number)
        _, said = running.communicate(timeout=60)

    assert running.returncode == 8
    assert said.startswith("error: interrupted")
    assert "\nstate: rolled back\n" in said
    assert "Traceback" not in said
    assert postgres18.execute("SELECT id, status FROM orders ORDER BY id") == BEFORE
    assert postgres18.execute(asleep) == [(0,)]
    (run,) = told(slow, "log", "log", "--on", "shop")["runs"]
    assert run["outcome"] == "interrupted"


def test_reader_that_goes_away_changes_nothing(folder: Path) -> None:
    said = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {PROGRAM} run close --on shop --yes | head -1"],
        check=False, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip

    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == "run     shop-1\n"
    assert orders(folder) == AFTER


# -- a terminal --------------------------------------------------------------------------------------------------------


#: Makes its standard input the controlling terminal, so that Ctrl-C there is a signal, and becomes the program.
_AT_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass
class Terminal:
    """A real terminal with somebody at it, who waits for a question before answering."""

    folder: Path
    arguments: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    screen: str = ""

    def talk(self, *answers: tuple[str, str]) -> int:
        """Type each answer when its question is on the screen; the exit status."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", _AT_TERMINAL, str(PROGRAM), *self.arguments], cwd=self.folder,
            env=environment(**self.variables), stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        left, raw = list(answers), b""
        with suppress(OSError):  # Linux says EIO when the other end is closed
            while block := os.read(ours, 4096):
                raw += block
                self.screen = raw.decode(errors="replace").replace("\r\n", "\n")
                if left and self.screen.endswith(f"{left[0][0]} [y/N] "):
                    os.write(ours, f"{left.pop(0)[1]}\n".encode())
        os.close(ours)
        assert left == []
        return process.wait()


def test_at_a_terminal_questions_are_asked_and_colours_appear(folder: Path) -> None:
    terminal = Terminal(folder, ["run", "close", "--on", "shop"])

    status = terminal.talk(
        (f'make the journal (schema "backout") in {folder}/shop.db as "shop"?', "y"),
        (f'run "close" on shop (SQLite {folder}/shop.db)?', "yes"),
    )

    assert status == 0, terminal.screen
    assert orders(folder) == AFTER
    assert "\x1b[" in terminal.screen
    assert "committed" in terminal.screen


def test_no_is_no_and_leaves_no_trace(folder: Path) -> None:
    backout(folder, "init", "--on", "shop")
    terminal = Terminal(folder, ["run", "close", "--on", "shop"])

    status = terminal.talk((f'run "close" on shop (SQLite {folder}/shop.db)?', ""))

    assert status == 3
    assert "not run: you said no" in terminal.screen
    assert orders(folder) == BEFORE
    assert told(folder, "log", "log", "--on", "shop") == {"runs": []}


def test_no_color_is_obeyed_at_a_terminal(folder: Path) -> None:
    terminal = Terminal(folder, ["run", "close", "--on", "shop", "--yes"], {"NO_COLOR": "1"})

    assert terminal.talk() == 0
    assert "\x1b" not in terminal.screen


def test_undo_with_conflicts_asks_whether_to_restore_the_rest(folder: Path) -> None:
    backout(folder, "run", "close", "--on", "shop", "--yes")
    with closing(sqlite3.connect(folder / "shop.db")) as connection, connection:
        connection.execute("UPDATE orders SET status = 'sent' WHERE id = 2")
    terminal = Terminal(folder, ["undo", "shop-1"])

    status = terminal.talk(('undo "shop-1" (A change)?', "y"), ("restore everything but these rows?", "y"))

    assert status == 5, terminal.screen
    assert orders(folder) == [(1, "open"), (2, "sent"), (3, "paid")]


def test_ctrl_c_at_a_question_is_exit_status_8(folder: Path) -> None:
    terminal = Terminal(folder, ["run", "close", "--on", "shop"])

    status = terminal.talk((f'make the journal (schema "backout") in {folder}/shop.db as "shop"?', "\x03"))

    assert status == 8
    assert "interrupted at a question" in terminal.screen
    assert ": untouched" in terminal.screen  # in colours
    assert "Traceback" not in terminal.screen
    assert orders(folder) == BEFORE


def test_hints_name_a_database_as_it_was_typed(folder: Path) -> None:
    """An environment of its name exists for that one command only."""
    (folder / "backout.toml").unlink()
    url = f"sqlite:///{folder}/shop.db"
    told(folder, "run", "run", "changes/close.sql", "--on", url, "--yes")

    again = backout(folder, "run", "changes/close.sql", "--on", url, "--yes")

    assert again.status == 3
    assert f"backout undo shop-1 --on {url};" in again.err
    assert f"backout log --on {url}\n" in backout(folder, "undo", "99", "--on", url, "--yes").err


def test_looking_does_not_wait_to_write(folder: Path) -> None:
    told(folder, "run", "run", "close", "--on", "shop", "--yes")
    config = folder / "backout.toml"
    config.write_text(
        config.read_text().replace("[environments.shop]\n", '[environments.shop]\nlock_timeout = "50 ms"\n')
    )
    busy = sqlite3.connect(folder / "shop.db", isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")

    assert [one["identifier"] for one in told(folder, "log", "log", "--on", "shop")["runs"]] == ["shop-1"]
    busy.close()


# -- looking -----------------------------------------------------------------------------------------------------------


def test_log_show_and_clean(folder: Path) -> None:
    config = folder / "backout.toml"
    config.write_text(config.read_text().replace("[environments.shop]\n", '[environments.shop]\nkeep = "0.001 s"\n'))
    told(folder, "run", "run", "close", "--on", "shop", "--yes")

    assert [one["identifier"] for one in told(folder, "log", "log", "--on", "shop")["runs"]] == ["shop-1"]
    shown = told(folder, "show", "show", "shop-1")
    assert [(one["table"], one["updated"]) for one in shown["tables"]] == [("main.orders", 2)]
    assert told(folder, "clean", "clean", "--on", "shop", "--dry-run")["dropped"] == []
    told(folder, "error", "clean", "--on", "shop", status=2)
    assert told(folder, "clean", "clean", "--on", "shop", "--yes")["dropped"] == [1]
    assert told(folder, "clean", "clean", "--on", "shop", "--yes") == {
        "expired": [], "dropped": [], "expired_backups": [], "dropped_backups": [], "notes": [],
    }  # fmt: skip
    assert told(folder, "error", "undo", "shop-1", "--yes", status=3)["error"]["state"] == "untouched"
    assert orders(folder) == AFTER
    for verb in (["log", "--on", "shop"], ["show", "shop-1"], ["clean", "--on", "shop"]):
        assert backout(folder, *verb).status == 0


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("backout ru", ["plain,run"]),
        ("backout run c", ["plain,close"]),
        ("backout run close --on s", ["plain,shop", "plain,spare"]),
        ("backout undo shop-1 --o", ["plain,--on", "plain,--overwrite"]),
    ],
)
def test_completion_knows_verbs_changes_environments_and_options(
    folder: Path, words: str, completed: list[str]
) -> None:
    said = backout(folder, _BACKOUT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))

    assert said == Finished(0, "".join(f"{line}\n" for line in completed), "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(folder: Path, shell: str) -> None:
    said = backout(folder, "completion", shell)

    assert (said.status, said.err) == (0, "")
    assert "_BACKOUT_COMPLETE" in said.out
