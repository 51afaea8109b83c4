"""The cable is cut while COMMIT is on its way: the journal says what became of it, and nobody guesses."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backout import Project
from backout.engines.values import RunState
from backout.errors import Interrupted, OutcomeUnknown
from backout.runs.report import RunReport
from proxy import Cut, Proxy
from servers import PostgresDatabase

CHANGE = """-- /// change
-- title = "Close all"
-- ///
UPDATE referral SET status = 'closed';
"""
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
CALLER = b"backout: run"


def yes(_kind: str, _question: str) -> bool:
    return True


def project_through(proxy: Proxy, postgres: PostgresDatabase, folder: Path) -> Project:
    url = urlsplit(postgres.url("login"))
    through = postgres.url("login").replace(f":{url.port}/", f":{proxy.own_port}/")
    folder.joinpath("backout.toml").write_text(
        f'[environments.far]\nurl = "{through}"\nrole = "{postgres.application_role}"\n'
        f'[environments.near]\nurl = "{postgres.url("login")}"\nrole = "{postgres.application_role}"\n'
    )
    folder.joinpath("close.sql").write_text(CHANGE)
    return Project.find(start=folder)


def prepared(postgres: PostgresDatabase, project: Project) -> None:
    postgres.as_application("CREATE TABLE referral (id int PRIMARY KEY, status text)")
    postgres.as_application("INSERT INTO referral SELECT g, 'open' FROM generate_series(1, 10) g")
    project.init_journal("far")


def run(project: Project, folder: Path) -> RunReport:
    return project.run(project.change(str(folder / "close.sql")), "far", ask=yes)


def proxy_for(postgres: PostgresDatabase, cut: Cut, *, for_good: bool = False) -> Proxy:
    port = urlsplit(postgres.url("login")).port
    assert port is not None
    return Proxy(port, CALLER, COMMIT, cut, for_good=for_good)


def closed(postgres: PostgresDatabase) -> int:
    ((count,),) = postgres.execute("SELECT count(*) FROM referral WHERE status = 'closed'")
    assert isinstance(count, int)
    return count


def test_an_answer_that_was_lost_is_found_in_the_journal(postgres18: PostgresDatabase, tmp_path: Path) -> None:
    """The server had committed: the run is reported as committed, with its rescue, and can be undone."""
    with proxy_for(postgres18, "before the client has the answer") as proxy:
        project = project_through(proxy, postgres18, tmp_path)
        prepared(postgres18, project)
        report = run(project, tmp_path)
        assert proxy.has_cut.is_set()
        assert (report.outcome, closed(postgres18)) == (RunState.COMMITTED, 10)
        assert "the answer to COMMIT was lost; the journal has the run" in report.notes
        project.undo(report.identifier, "far", ask=yes)
        assert closed(postgres18) == 0


def test_a_commit_that_never_arrived_is_rolled_back(postgres18: PostgresDatabase, tmp_path: Path) -> None:
    """The server never saw COMMIT: the run is interrupted, nothing is changed, and no rescue is left."""
    with proxy_for(postgres18, "before the server has it") as proxy:
        project = project_through(proxy, postgres18, tmp_path)
        prepared(postgres18, project)
        with pytest.raises(Interrupted) as caught:
            run(project, tmp_path)
        assert caught.value.message == (
            "the connection was lost at COMMIT, and the journal says that the run was not committed"
        )
        assert (caught.value.state, caught.value.exit_status, closed(postgres18)) == ("rolled back", 8, 0)
        assert project.log("far")[0].state is RunState.INTERRUPTED
        left = postgres18.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'rescue'")
        assert left == [(0,)]


@pytest.mark.parametrize(
    ("cut", "state", "rows"),
    [
        ("before the client has the answer", RunState.COMMITTED, 10),
        ("before the server has it", RunState.INTERRUPTED, 0),
    ],
)
def test_an_outcome_that_cannot_be_asked_for_is_unknown(
    postgres18: PostgresDatabase, tmp_path: Path, cut: Cut, state: RunState, rows: int
) -> None:
    """Exit 11 with the command that settles it; asked on another way later, the journal knows."""
    with proxy_for(postgres18, cut, for_good=True) as proxy:
        project = project_through(proxy, postgres18, tmp_path)
        prepared(postgres18, project)
        postgres18.execute("UPDATE backout.journal SET environment = 'far'")
        with pytest.raises(OutcomeUnknown) as caught:
            run(project, tmp_path)
        assert (caught.value.exit_status, caught.value.hint) == (
            11, "run `backout log --on ENV`: it asks, and settles the run"
        )  # fmt: skip
    postgres18.execute("UPDATE backout.journal SET environment = 'near'")
    assert project.log("near")[0].state is state
    assert closed(postgres18) == rows
