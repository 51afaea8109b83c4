"""`backout ci` in real git repositories: what a branch adds is checked, what was merged keeps its text."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from acceptance.program import PROGRAM, Finished, backout, environment
from backout.cli.annotations import github_line, gitlab_report, plain_line
from backout.project.ci import CiFinding
from unit.test_as_json import require_valid

CONFIG = """
[environments.staging]
url = "sqlite:///staging.db"
[environments.production]
url = "sqlite:///production.db"
documents = ["risk", "mitigation"]
"""
GOOD = """-- /// change
-- title = "Close the open referrals"
-- risk = "A referral that somebody reopened by hand would be closed again."
-- mitigation = "A ghost run first; the assertion below."
-- ///
-- @expect 2
UPDATE referral SET status = 'closed' WHERE status = 'open';
-- @assert "none is open"
SELECT count(*) = 0 FROM referral WHERE status = 'open';
"""
TESTED = GOOD.replace(
    "-- ///\n-- @expect", '-- [test]\n-- schema = "t/schema.sql"\n-- file = "t/test.sql"\n-- ///\n-- @expect'
)


class Repository:
    """A project in a git repository, with the branch "work" beside "main"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q", "-b", "main")
        self.write("backout.toml", CONFIG)
        self.write("changes/merged.sql", GOOD)
        self.commit()
        self.git("checkout", "-q", "-b", "work")

    def git(self, *arguments: str) -> str:
        names = {"GIT_AUTHOR_NAME": "ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_CONFIG_GLOBAL": os.devnull}
        names |= {"GIT_COMMITTER_NAME": "ada", "GIT_COMMITTER_EMAIL": "ada@example.org", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **names},
        )
        return done.stdout

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "work")

    def ci(self, *arguments: str, **variables: str) -> Finished:
        none = {"GITHUB_ACTIONS": "", "GITHUB_BASE_REF": "", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": ""}
        return backout(self.folder, "ci", *arguments, **(none | variables))

    def findings(self, *arguments: str, status: int) -> list[tuple[str, str, int, str]]:
        ended = self.ci(*arguments, "--json")
        assert ended.status == status, ended.out + ended.err
        said = json.loads(ended.out)
        require_valid(said, "ci")
        return [(one["rule"], one["file"], one["line"], one["level"]) for one in said["findings"]]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_branch_without_changes_passes(repository: Repository) -> None:
    ended = repository.ci()
    assert ended.status == 0, ended.err
    assert "changes since main" in ended.out
    assert "0 checked, 0 tested, 0 errors, 0 warnings" in ended.out


def test_good_change_passes_committed_or_not(repository: Repository) -> None:
    repository.write("changes/close.sql", GOOD)
    assert repository.findings(status=0) == []
    repository.commit()
    ended = repository.ci("--base", "main")
    assert ended.status == 0
    assert "close" in ended.out
    assert "1 checked" in ended.out


def test_merged_change_that_was_edited_is_an_error(repository: Repository) -> None:
    repository.write("changes/merged.sql", GOOD.replace("status = 'open';", "status = 'lost';"))
    repository.commit()
    assert repository.findings(status=3) == [("merged", "changes/merged.sql", 1, "error")]


def test_line_ends_alone_change_no_digest(repository: Repository) -> None:
    (repository.folder / "changes" / "merged.sql").write_bytes(GOOD.replace("\n", "\r\n").encode())
    assert repository.findings(status=0) == []


def test_undo_file_of_a_merged_change_is_part_of_it(repository: Repository) -> None:
    repository.git("checkout", "-q", "main")
    repository.write("changes/with-undo.sql", GOOD.replace("-- ///\n-- @", '-- backout = "undo.sql"\n-- ///\n-- @'))
    repository.write("changes/undo.sql", "UPDATE referral SET status = 'open';\n")
    repository.commit()
    repository.git("checkout", "-q", "-B", "work")
    assert repository.findings(status=0) == []

    repository.write("changes/undo.sql", "UPDATE referral SET status = 'lost';\n")
    assert repository.findings(status=3) == [("merged", "changes/with-undo.sql", 1, "error")]


def test_removed_merged_change_is_a_warning(repository: Repository) -> None:
    (repository.folder / "changes" / "merged.sql").unlink()
    repository.commit()
    assert repository.findings(status=0) == [("merged", "changes/merged.sql", 1, "warning")]


def test_change_merged_meanwhile_on_the_base_is_not_ours(repository: Repository) -> None:
    repository.git("checkout", "-q", "main")
    repository.write("changes/other.sql", "not even a change\n")
    repository.commit()
    repository.git("checkout", "-q", "work")
    repository.write("changes/close.sql", GOOD)
    repository.commit()
    assert repository.findings(status=0) == []


def test_missing_and_empty_documents_are_errors_at_their_lines(repository: Repository) -> None:
    text = GOOD.replace("A ghost run first; the assertion below.", "tbd")
    repository.write("changes/close.sql", "\n".join(line for line in text.split("\n") if "risk" not in line))
    assert repository.findings(status=3) == [
        ("documents", "changes/close.sql", 1, "error"),
        ("documents", "changes/close.sql", 3, "error"),
    ]


def test_what_cannot_be_undone_is_an_error_and_conditions_are_warnings(repository: Repository) -> None:
    repository.write(
        "changes/close.sql", GOOD + "DROP TABLE referral;\nUPDATE referral SET status = my_own(status) WHERE id = 1;\n"
    )
    found = repository.findings(status=3)
    assert [(line, level) for _, _, line, level in found if level != "notice"] == [(10, "error"), (11, "warning")]


def test_file_that_is_no_change_exits_with_2_and_its_place(repository: Repository) -> None:
    repository.write("changes/close.sql", GOOD.replace("@expect 2", "@expct 2"))
    assert repository.findings(status=2) == [("invalid-file", "changes/close.sql", 6, "error")]


def test_symbolic_link_is_an_error(repository: Repository) -> None:
    repository.write("elsewhere/close.sql", GOOD)
    (repository.folder / "changes" / "close.sql").symlink_to("../elsewhere/close.sql")
    assert repository.findings(status=3) == [("link", "changes/close.sql", 1, "error")]


def test_own_tests_run_and_fail_at_their_lines(repository: Repository) -> None:
    repository.write("changes/close.sql", TESTED)
    repository.write(
        "changes/t/schema.sql",
        "CREATE TABLE referral (id integer PRIMARY KEY, status text);\nINSERT INTO referral VALUES (1, 'open'), (2, 'open');",
    )
    repository.write(
        "changes/t/test.sql", "-- both are closed\nSELECT count(*) = 2 FROM referral WHERE status = 'closed';\n"
    )
    ended = repository.ci()
    assert ended.status == 0, ended.out
    assert "1 checked, 1 tested, 0 errors" in ended.out

    repository.write("changes/t/test.sql", "-- three\nSELECT count(*) = 3 FROM referral WHERE status = 'closed';\n")
    assert repository.findings(status=3) == [("tests", "changes/t/test.sql", 2, "error")]
    assert repository.findings("--no-tests", status=0) == []


def test_base_is_taken_from_the_service(repository: Repository) -> None:
    repository.git("branch", "release", "main")
    ended = repository.ci(CI_MERGE_REQUEST_TARGET_BRANCH_NAME="release")
    assert "changes since release" in ended.out
    ended = repository.ci(GITHUB_BASE_REF="nowhere")
    assert ended.status == 2
    assert 'there is no branch or commit "nowhere"' in ended.err


def test_folder_without_git_is_an_error(tmp_path: Path) -> None:
    ended = backout(tmp_path, "ci")
    assert ended.status == 2
    assert "is not in a git repository" in ended.err


def test_branch_that_looks_like_an_option_is_a_name(repository: Repository) -> None:
    ended = repository.ci("--base=--output=/tmp/owned")
    assert ended.status == 2
    assert 'no branch or commit "--output=/tmp/owned"' in ended.err


def test_github_annotations_are_printed_in_its_workflows(repository: Repository) -> None:
    repository.write("changes/merged.sql", GOOD + "-- more\n")
    ended = repository.ci(GITHUB_ACTIONS="true")
    assert ended.status == 3
    assert "::error file=changes/merged.sql,line=1,col=1,title=backout%3A merged::this change was merged" in ended.out


def test_gitlab_report_is_written_beside_the_text(repository: Repository) -> None:
    repository.write("changes/merged.sql", GOOD + "-- more\n")
    ended = repository.ci("--gitlab", "report.json")
    assert ended.status == 3
    (one,) = json.loads((repository.folder / "report.json").read_text())
    assert one["location"] == {"path": "changes/merged.sql", "lines": {"begin": 1}}
    assert one["severity"] == "major"
    assert len(one["fingerprint"]) == 64
    assert "changes/merged.sql:1:1: error: " in ended.out


NASTY = CiFinding("error", "a:b", "50% of\nit, done: ::error::x", "a,b:c%.sql", 3, 4, "two\nlines")


def test_nothing_in_a_finding_can_end_its_annotation() -> None:
    assert github_line(NASTY) == (
        "::error file=a%2Cb%3Ac%25.sql,line=3,col=4,title=backout%3A a%3Ab::"
        "50%25 of%0Ait, done: ::error::x (hint: two lines)"
    )
    assert plain_line(NASTY).startswith("a,b:c%.sql:3:4: error: 50%")


def test_findings_that_say_the_same_have_fingerprints_of_their_own() -> None:
    first, second = gitlab_report([NASTY, NASTY])
    assert first["fingerprint"] != second["fingerprint"]
    assert gitlab_report([NASTY]) == [first]


# -- the files that are ready to copy ----------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs" / "ci"


def commands(file: str) -> list[str]:
    """The shell commands of a workflow file: `run: …` of GitHub, the items of `…script:` of GitLab."""
    found, inside = [], False
    for line in (DOCS / file).read_text().splitlines():
        name, _, value = line.strip().partition(": ")
        if line.strip().endswith("script:"):
            inside = True
        elif name == "run":
            found.append(value)
        elif inside and line.strip().startswith("- "):
            found.append(line.strip()[2:])
        else:
            inside = False
    return found


@pytest.mark.parametrize(
    ("file", "variables"),
    [
        ("github.yml", {"GITHUB_ACTIONS": "true", "GITHUB_BASE_REF": "main"}),
        ("gitlab.yml", {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}),
    ],
)
def test_commands_of_the_workflow_files_work_in_a_clone(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory, file: str, variables: dict[str, str]
) -> None:
    repository.write("changes/merged.sql", GOOD + "-- more\n")
    repository.commit()
    clone = tmp_path_factory.mktemp("clone") / "project"
    repository.git("clone", "-q", str(repository.folder), str(clone))
    path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"

    ran = commands(file)
    assert sum(one.startswith("backout ci ") for one in ran) == 1
    for command in ran:
        if command.startswith("pip "):
            assert command == "pip install backout"
            continue
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=clone, check=False, capture_output=True, text=True,
            env=environment(PATH=path, **({"GITHUB_ACTIONS": ""} | variables)),
        )  # fmt: skip
        is_check = command.startswith("backout ")
        assert done.returncode == (3 if is_check else 0), done.stderr
        if is_check and file == "github.yml":
            assert done.stdout.startswith("::error file=changes/merged.sql,line=1")
        if is_check and file == "gitlab.yml":
            assert json.loads((clone / "gl-code-quality-report.json").read_text())[0]["check_name"] == "backout/merged"


def test_what_decides_who_may_approve_is_said_to_have_changed(repository: Repository) -> None:
    repository.write("changes/close.sql", GOOD)
    repository.write("allowed_signers", "mallory@example.org ssh-ed25519 AAAA\n")
    text = (repository.folder / "backout.toml").read_text()
    repository.write("backout.toml", f"{text}\n# and one more\n")
    found = repository.findings(status=0)
    assert [one for one in found if one[0] == "policy"] == [
        ("policy", "backout.toml", 1, "warning"), ("policy", "allowed_signers", 1, "warning"),
    ]  # fmt: skip
    said = repository.ci().out
    assert "what decides who may approve and run is another one: backout.toml" in said
    assert "what decides who may approve and run is new: allowed_signers" in said
