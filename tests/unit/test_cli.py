"""The command line: help, mistakes, questions, exit statuses. What runs do to databases is in tests/integration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from backout.cli.conversation import Conversation
from backout.cli.exit_statuses import STATUSES
from backout.cli.group import SECTIONS
from backout.cli.main import cli, execute
from backout.errors import BackoutError, Conflicts, UsageError
from backout.project import Project

ROOT = Path(__file__).parents[2]
VERBS = [verb for verbs in SECTIONS.values() for verb in verbs]
Captured = pytest.CaptureFixture[str]


def backout(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell would."""
    code = "from backout.cli.main import main; main()"
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False, stdin=-3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_lists_the_verbs_by_what_one_is_doing(capsys: Captured) -> None:
    assert execute(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n{section.capitalize()}:\n") for section in SECTIONS]
    assert places == sorted(places)
    assert sorted(VERBS) == sorted(cli.commands)
    assert max(len(line) for line in text.split("\n")) <= 80


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: Captured) -> None:
    assert execute([verb, "--help"]) == 0
    example = capsys.readouterr().out.partition("\nExample:\n")[2]
    assert f"backout {verb}" in example


def test_help_imports_no_driver_no_parser_and_no_rich(folder: Path) -> None:
    code = (
        "import sys; from backout.cli.main import execute; execute(['--help']); slow = {'psycopg', 'sqlalchemy', 'apsw', "
        "'rich', 'postgast', 'sqlglot', 'google'}; print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["gohst"],
            'error: no verb "gohst"\nstate: untouched\nhint: did you mean "ghost"?\n',
        ),
        (["check"], "error: missing argument 'CHANGE'\nstate: untouched\nhint: backout check --help\n"),
        (
            ["run", "close"],
            "error: where? --on is missing\nstate: untouched\nhint: name an environment of backout.toml, or a URL\n",
        ),
        (
            ["run", "close", "--on", "dev", "--param", "cutoff"],
            'error: "--param cutoff" has no value\nstate: untouched\nhint: write --param name=value\n',
        ),
        (
            ["run", "close", "--on", "dev", "--param", "a=1", "--param", "a=2"],
            'error: parameter "a" is given twice\nstate: untouched\nhint: keep one of them\n',
        ),
        (
            ["undo", "dev-1", "--overwrite", "one"],
            "error: --overwrite takes the numbers of conflicts\nstate: untouched\nhint: for example --overwrite 1,3\n",
        ),
        (
            ["run", "close", "--on", "dev"],
            (
                'error: no change "close": there is no such file, nor one in "{folder}/changes"\nstate: untouched\n'
                'hint: write it: backout new "close"\n'
            ),
        ),
        (
            ["init", "--restamp"],
            "error: --restamp needs --on\nstate: untouched\nhint: name the environment\n",
        ),
    ],
)
def test_a_mistake_is_named_with_the_way_out(folder: Path, arguments: list[str], text: str, capsys: Captured) -> None:
    assert execute(arguments) == 2
    said = capsys.readouterr()
    assert said.err == text.replace("{folder}", str(folder))
    assert said.out == ""


def test_without_on_the_environments_are_named(folder: Path, capsys: Captured) -> None:
    (folder / "backout.toml").write_text('[environments.dev]\nurl = "sqlite:a.db"\n')
    assert execute(["log"]) == 2
    assert capsys.readouterr().err == (
        "error: where? --on is missing\nstate: untouched\nhint: --on ENVIRONMENT; known are: dev\n"
    )


def test_with_json_a_mistake_is_an_object_too(folder: Path, capsys: Captured) -> None:
    assert execute(["gohst", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["message"] == 'no verb "gohst"'


def test_init_and_new_write_and_never_overwrite(folder: Path, capsys: Captured) -> None:
    assert execute(["init"]) == 0
    assert capsys.readouterr().out == f"wrote {folder}/backout.toml\nwrote {folder}/changes\n"
    assert execute(["init"]) == 0
    assert capsys.readouterr().out == "everything is there already\n"
    path = folder / "changes" / "close-it.sql"
    assert execute(["new", "Close it"]) == 0
    assert capsys.readouterr().out == f"wrote {path}\nnext: edit it, then backout check close-it\n"
    assert execute(["new", "Close it"]) == 2
    assert capsys.readouterr().err == (
        f'error: "{path}" is there already\nstate: untouched\nhint: give the change another title\n'
    )
    assert execute(["new", "Reopen it", "--python", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "change": "reopen-it", "path": str(folder / "changes" / "reopen-it.py"),
    }  # fmt: skip


def test_check_refuses_what_cannot_be_undone(folder: Path, capsys: Captured) -> None:
    (folder / "bad.sql").write_text('-- /// change\n-- title = "Bad"\n-- ///\nDROP TABLE referral;\n')
    assert execute(["check", "bad.sql"]) == 3
    assert "line 4    not undoable  DROP TABLE referral" in capsys.readouterr().out


def fail_with(error: BaseException) -> Callable[..., NoReturn]:
    """Stand in for a method that raises."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def test_a_bug_says_that_it_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(Project, "log", fail_with(KeyError("x")))
    assert execute(["log", "--on", "postgresql://me:s3cret@host/db"]) == 1
    assert capsys.readouterr().err == (
        "error: this is a bug in backout: please report it (KeyError)\n"
        "state: unknown: see `backout log --on postgresql://me:***@host/db`\n"
        "note: BACKOUT_DEBUG=1 before the command prints where it happened; that may show values\n"
    )
    monkeypatch.setenv("BACKOUT_DEBUG", "1")
    assert execute(["log", "--on", "sqlite:a.db"]) == 1
    assert "Traceback (most recent call last):" in capsys.readouterr().err


def test_ctrl_c_is_exit_status_8(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(Project, "doctor", fail_with(KeyboardInterrupt()))
    assert execute(["doctor"]) == 8
    assert capsys.readouterr().err == "\nerror: interrupted\nstate: untouched\n"


def test_sigterm_is_exit_status_8(folder: Path) -> None:
    code = (
        "import time; from backout.cli import main; from backout.project import Project\n"
        "Project.doctor = lambda *_: (print('ready', flush=True), time.sleep(60))\n"
        "main.sys.argv = ['backout', 'doctor']; main.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (8, "\nerror: interrupted\nstate: untouched\n")


def test_a_reader_that_goes_away_changes_no_exit_status(folder: Path) -> None:
    code = "from backout.cli.main import main; main()"
    command = f"{{ sleep 0.5; {sys.executable} -W error -c '{code}' doctor; echo $? >&3; }} 3>&2 | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["bash", "-c", command], env=environment, text=True, capture_output=True, check=False)
    assert done.stderr == "0\n"


def test_without_a_terminal_a_question_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(UsageError) as caught:
        Conversation(yes=False).ask("run", 'run "close" on production?')
    assert str(caught.value) == (
        'no answer, and nobody to ask: run "close" on production?\nstate: untouched\nhint: answer it with --yes'
    )
    assert Conversation(yes=True).ask("run", 'run "close" on production?') is True


def test_conflicts_without_a_terminal_are_listed_and_end_with_5(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(Project, "undo", fail_with(Conflicts("2 rows were changed", (), hint="--partial")))
    assert execute(["undo", "dev-1", "--yes"]) == 5
    assert capsys.readouterr().err == "error: 2 rows were changed\nstate: untouched\nhint: --partial\n"


def test_the_exit_statuses_of_all_errors_are_documented() -> None:
    def below(kind: type[BackoutError]) -> set[int]:
        return {kind.exit_status}.union(*(below(one) for one in kind.__subclasses__()))

    assert below(BackoutError) - {status for status, _, _ in STATUSES} == set()


@pytest.mark.parametrize("shell", ["zsh", "fish"])  # bash's needs a bash 4 on this machine
def test_completion_scripts(shell: str, capsys: Captured) -> None:
    assert execute(["completion", shell]) == 0
    assert "_BACKOUT_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "word", "completed"),
    [
        ("backout gh", "gh", "plain,ghost\n"),
        ("backout run cl", "cl", "plain,close-it\n"),
        ("backout run x --on st", "st", "plain,staging\n"),
    ],
)
def test_completion_of_verbs_changes_and_environments(folder: Path, words: str, word: str, completed: str) -> None:
    (folder / "backout.toml").write_text('[environments.staging]\nurl = "sqlite:a.db"\n')
    (folder / "changes").mkdir()
    (folder / "changes" / "close-it.sql").touch()
    count = str(len(words.split()) - 1)
    done = backout(folder=folder, _BACKOUT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count)
    assert (done.stdout, done.stderr) == (completed, "")


def test_the_reference_pages_tell_what_the_code_is() -> None:
    said = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference.py", "--check"], capture_output=True, check=False
    )

    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
