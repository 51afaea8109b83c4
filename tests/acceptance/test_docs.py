"""Every example of the documentation is typed and run, against real databases; every link leads somewhere.

BACKOUT_REWRITE_DOCS=1 puts the true outputs into the pages instead of comparing them.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from acceptance.pages import DOCS, blocks, typed, write_file
from backout import Project
from backout.cli.demo import clinic
from servers import PASSWORD, PostgresDatabase

ROOT = DOCS.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
)
REWRITE = os.environ.get("BACKOUT_REWRITE_DOCS") == "1"


def yes(_kind: str, _question: str) -> bool:
    return True


@pytest.fixture
def clinic_folder(postgres18: PostgresDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the clinic of the demo as its environment "staging"; the working directory of the test."""
    source = Path(clinic.__file__).parent
    postgres18.as_application((source / "clinic.sql").read_text(encoding="utf-8"))
    (tmp_path / "changes").mkdir()
    change = "close-outage-referrals.sql"
    (tmp_path / "changes" / change).write_text((source / change).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "backout.toml").write_text(
        '[undo]\nbookkeeping = ["updated_at"]\nappend_only = ["audit_log"]\n'
        f'[environments.staging]\nurl = "{postgres18.login_url}"\nrole = "{postgres18.application_role}"\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name is so short that no line of output is folded because of it."""
    with tempfile.TemporaryDirectory(prefix="shop-") as directory:
        yield Path(directory)


def test_tutorial_says_what_happens(short_path: Path) -> None:
    page = DOCS / "tutorial.md"
    text, told, at = page.read_text(encoding="utf-8"), "", 0
    for block in blocks(page):
        if block.file:
            write_file(block, short_path)
        elif block.language == "console":
            told += text[at : block.start] + typed(block.text, short_path)
            at = block.end
    told += text[at:]

    if REWRITE:
        page.write_text(told, encoding="utf-8")
    assert words(told) == words(page.read_text(encoding="utf-8"))


def words(text: str) -> list[list[str]]:
    """Line by line, without the widths of columns."""
    return [line.split() for line in text.splitlines()]


def test_library_page_runs(
    clinic_folder: Path, postgres18: PostgresDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = {"application": postgres18.connect("application")}

    for block in blocks(DOCS / "how-to" / "library.md"):
        if block.language == "python":
            exec(compile(block.text, "library.md", "exec"), namespace)

    said = capsys.readouterr().out
    assert "staging-2 exact" in said
    assert "changed by others since" in said


@pytest.mark.parametrize("name", ["mend-telephone-numbers", "close-referrals-by-model"])
def test_python_change_of_the_page_runs_and_can_be_undone(
    clinic_folder: Path, postgres18: PostgresDatabase, name: str
) -> None:
    for block in blocks(DOCS / "how-to" / "python-changes.md"):
        if block.file:
            write_file(block, clinic_folder)
    postgres18.as_application("UPDATE patient SET phone = '555 01 99' WHERE id IN (1, 2)")
    project = Project.find()

    ghost = project.ghost(project.change(name), "staging", undo=True, ask=yes)
    run = project.run(project.change(name), "staging", ask=yes)
    undone = project.undo(run.identifier, ask=yes)

    assert ghost.way_back == "proven"
    assert [table.updated for table in run.tables if table.named_in_change or table.updated] == [2]
    assert not undone.conflicts
    assert postgres18.execute("SELECT count(*) FROM patient WHERE phone = '555 01 99'") == [(2,)]


def test_rights_of_the_page_are_enough(clinic_folder: Path, postgres18: PostgresDatabase) -> None:
    (text,) = (block.text for block in blocks(DOCS / "how-to" / "rights.md") if block.language == "sql")
    login, app = postgres18.create_role("docs", "NOLOGIN"), postgres18.application_role
    postgres18.execute(f'DROP ROLE "{login}"')
    names = {"clinic_app": app, "DATABASE clinic": f"DATABASE {postgres18.name}", "choose one": PASSWORD}
    for name, actual in names.items():
        text = text.replace(name, actual)
    text = re.sub(r"\b(ROLE|TO|AUTHORIZATION) backout\b", rf"\1 {login}", text)
    with psycopg.connect(postgres18.superuser_url) as administrator:
        administrator.execute(text.encode())
    config = clinic_folder / "backout.toml"
    config.write_text(
        config.read_text(encoding="utf-8").replace(postgres18.login_url, postgres18.url(login)), encoding="utf-8"
    )
    project = Project.find()

    run = project.run(project.change("close-outage-referrals"), "staging", ask=yes)
    project.undo(run.identifier, ask=yes)

    assert [one.text for one in project.doctor("staging") if one.level != "fine"] == []
    assert postgres18.execute("SELECT count(*) FROM referral WHERE status = 'open'") == [(139,)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [target for target in targets if not (page.parent / target).exists()] == []
