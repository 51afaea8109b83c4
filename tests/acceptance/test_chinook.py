"""Everyday changes of a music shop, typed by a user: the installed program, real schema and data, both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from acceptance.chinook import Shop, postgres_shop, sqlite_shop
from acceptance.program import backout, told
from servers import PostgresDatabase, present

ESSENTIAL = "delete-customer"  # on every server; the other changes on PostgreSQL 18 and SQLite
SERVERS = [*present(), "sqlite"]


@dataclass(frozen=True)
class Everyday:
    """A change, what it writes (table: inserted, updated, deleted), and what a colleague does after its run."""

    name: str
    writes: dict[str, tuple[int, int, int]]
    in_the_way: str  # writes to a row of the run
    kinds: tuple[str, ...]  # of the conflicts
    beside: str  # writes KEPT to another row, or to another column of a row of the run

    def __str__(self) -> str:
        return self.name


OF_OTHERS = ("changed since", "deleted since", "key used again since")
KEPT = "kept: a colleague was here"
EVERYDAY = [
    Everyday(
        "raise-jazz-prices",
        {"track": (0, 130, 0)},
        "UPDATE track SET unit_price = 0.49 WHERE track_id = 63",
        ("changed since",),
        f"UPDATE track SET composer = '{KEPT}' WHERE track_id = 64",
    ),
    Everyday(
        "merge-artists",
        {"album": (0, 2, 0), "artist": (0, 0, 1)},
        "UPDATE album SET artist_id = 1 WHERE album_id = 24",
        ("changed since",),
        f"UPDATE artist SET name = '{KEPT}' WHERE artist_id = 1",
    ),
    Everyday(
        "delete-customer",
        {"customer": (0, 0, 1), "invoice": (0, 0, 6), "invoice_line": (0, 0, 36)},
        (
            "INSERT INTO customer (customer_id, first_name, last_name, email) "
            "VALUES (59, 'Chidi', 'Anagonye', 'chidi at example.org')"
        ),
        ("key used again since",),
        f"UPDATE employee SET address = '{KEPT}' WHERE employee_id = 5",
    ),
    Everyday(
        "delete-playlist",
        {"playlist": (0, 0, 1), "playlist_track": (0, 0, 213)},
        "INSERT INTO playlist (playlist_id, name) VALUES (10, 'Podcasts')",
        ("key used again since",),
        f"UPDATE playlist SET name = '{KEPT}' WHERE playlist_id = 3",
    ),
    Everyday(
        "correct-email-domains",
        {"customer": (0, 4, 0)},
        "UPDATE customer SET email = 'by telephone only' WHERE customer_id = (SELECT min(customer_id) FROM customer "
        "WHERE email LIKE '%outlook.com')",
        ("changed since",),
        f"UPDATE customer SET company = '{KEPT}' WHERE customer_id = (SELECT max(customer_id) FROM customer "
        "WHERE email LIKE '%outlook.com')",
    ),
    Everyday(
        "add-album",
        {"album": (1, 0, 0), "track": (3, 0, 0)},
        "UPDATE track SET unit_price = 0.49 WHERE name = 'Rejection'",
        ("changed since",),
        f"UPDATE artist SET name = '{KEPT}' WHERE artist_id = 2",
    ),
    Everyday(
        "set-genre-price",
        {"track": (0, 81, 0)},
        "UPDATE track SET unit_price = 0.49 WHERE track_id = 194",
        ("changed since",),
        f"UPDATE track SET composer = '{KEPT}' WHERE track_id = 195",
    ),
]


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """The music shop on the server that the test names."""
    if request.param == "sqlite":
        yield sqlite_shop(tmp_path)
        return
    servers = request.getfixturevalue("postgres_servers")
    database: PostgresDatabase = servers.create_database(request.param)
    yield postgres_shop(database, tmp_path)
    servers.drop_database(request.param, database)


on_both = pytest.mark.parametrize("shop", [one for one in SERVERS if one in ("pg18", "sqlite")], indirect=True)


def cases() -> list[Any]:
    everywhere = [(server, one) for one in EVERYDAY for server in SERVERS]
    return [
        pytest.param(server, one, id=f"{one}-{server}")
        for server, one in everywhere
        if one.name == ESSENTIAL or server in ("pg18", "sqlite")
    ]


def counts(run: dict[str, Any], names: dict[str, str]) -> dict[str, tuple[int, int, int]]:
    return {names[bare(one["table"])]: (one["inserted"], one["updated"], one["deleted"]) for one in run["tables"]}


def kinds(undo: dict[str, Any]) -> list[str]:
    """What others did to rows of the run. Rows that wait for those, by a foreign key, are conflicts as well."""
    return [one["kind"] for one in undo["conflicts"] if one["kind"] in OF_OTHERS]


def overwritten(shop: Shop, partial: dict[str, Any]) -> dict[str, Any]:
    """Overwrite what is listed, and again what is listed then: of very many conflicts a list names only the first."""
    listed, run = partial, f"shop-{partial['undo_of']}"
    while listed["conflicts"]:
        numbers = ",".join(str(one["number"]) for one in listed["conflicts"])
        left = len(listed["conflicts"])
        listed = told(shop.folder, "run", "undo", run, "--partial", "--overwrite", numbers, "--yes", status=(0, 5))
        assert len(listed["conflicts"]) < left
    return listed


def bare(table: str) -> str:
    return table.rpartition(".")[2].strip('"').lower()


@pytest.mark.parametrize(("shop", "change"), cases(), indirect=["shop"])
def test_everyday_change_can_be_taken_back(shop: Shop, change: Everyday) -> None:
    names = {shop.in_dialect(name): name for name in ("playlist_track", "invoice_line", *change.writes)}
    before = shop.dump()

    checked = told(shop.folder, "check", "check", change.name, "--on", "shop")
    assert (checked["passed"], checked["missing_tables"]) == (True, [])
    assert {names.get(bare(one["table"])) for one in checked["tables"]} >= set(change.writes)

    ghost = told(shop.folder, "run", "ghost", change.name, "--on", "shop", "--yes")
    assert (ghost["mode"], ghost["outcome"], ghost["state"]) == ("ghost", "rolled back", "untouched")
    assert counts(ghost, names) == change.writes
    assert shop.dump() == before

    ghost = told(shop.folder, "run", "ghost", change.name, "--on", "shop", "--undo")
    assert ghost["way_back"] == "proven"
    assert shop.dump() == before

    run = told(shop.folder, "run", "run", change.name, "--on", "shop", "--yes")
    assert (run["mode"], run["outcome"], run["proof"]["complete"]) == ("real", "committed", True)
    assert counts(run, names) == change.writes
    assert all(one["passed"] for one in run["assertions"])
    assert run["digest"] == ghost["digest"] == checked["digest"]
    assert shop.dump() != before

    shop.execute(change.in_the_way)
    shop.execute(change.beside)
    meanwhile = shop.dump()

    refused = told(shop.folder, "run", "undo", run["identifier"], "--yes", status=5)
    assert kinds(refused) == [*change.kinds]
    assert (refused["error"]["code"], refused["state"]) == ("conflicts", "untouched")
    assert shop.dump() == meanwhile

    partial = told(shop.folder, "run", "undo", run["identifier"], "--partial", "--yes", status=5)
    assert kinds(partial) == [*change.kinds]
    assert partial["outcome"] == "committed"

    undone = overwritten(shop, partial)
    assert (undone["outcome"], undone["conflicts"], undone["undo_of"]) == ("committed", [], run["run"])
    after = shop.dump()
    assert len(set(before) - set(after)) == 1
    assert [KEPT in line for line in set(after) - set(before)] == [True]

    run = told(shop.folder, "run", "run", change.name, "--on", "shop", "--yes")
    undone = told(shop.folder, "run", "undo", run["identifier"], "--yes")
    assert undone["conflicts"] == []
    assert "\n".join(shop.dump()) == "\n".join(after)


@on_both
def test_change_whose_assertion_fails_leaves_no_trace_but_in_the_log(shop: Shop) -> None:
    before = shop.dump()

    failed = told(shop.folder, "run", "run", "assert-too-much", "--on", "shop", "--yes", status=4)

    assert (failed["outcome"], failed["state"]) == ("rolled back", "rolled back")
    assert failed["error"] == {
        "code": "assertion_failed",
        "message": (
            f'{shop.folder}/changes/assert-too-much.sql:8: the assertion "nobody has more than twenty customers" '
            f"is not true: its query said {failed['assertions'][0]['value']}"
        ),
        "state": "rolled back",
        "hint": "look at the rows with `backout ghost`; change the statements or the assertion",
    }
    assert [(one["affected"], one["line"]) for one in failed["statements"]] == [(21, 5)]
    assert [one["passed"] for one in failed["assertions"]] == [False]
    assert shop.dump() == before
    assert [one["outcome"] for one in told(shop.folder, "log", "log", "--on", "shop")["runs"]] == ["rolled back"]


@on_both
@pytest.mark.parametrize("verb", ["ghost", "run"])
def test_change_that_drops_a_table_never_begins(shop: Shop, verb: str) -> None:
    before = shop.dump()

    checked = told(shop.folder, "check", "check", "empty-playlists", status=3)
    refused = told(shop.folder, "error", verb, "empty-playlists", "--on", "shop", "--yes", status=3)

    assert (checked["passed"], checked["level"]) == (False, "not undoable")
    assert refused["error"] == {
        "code": "refused",
        "message": f"{shop.folder}/changes/empty-playlists.sql:5: not undoable: "
        "a change of the schema is not a change of rows",
        "state": "untouched",
        "hint": "use a schema migration, or a TEMP table",
    }
    assert shop.dump() == before
    assert told(shop.folder, "log", "log", "--on", "shop") == {"runs": []}


@on_both
def test_value_on_the_command_line_wins_over_the_environments(shop: Shop) -> None:
    values = ["--param", "price=0.49", "--param", "genre=Jazz", "--param", "tracks=130"]

    run = told(shop.folder, "run", "run", "set-genre-price", "--on", "shop", "--yes", "--rows", "1", *values)
    wrong = told(shop.folder, "run", "ghost", "set-genre-price", "--on", "shop", "--param", "tracks=5", status=4)

    assert [(one["affected"]) for one in run["statements"]] == [130]
    (sample,) = run["tables"][0]["sample"]
    assert sample["after"].get("unit_price", sample["after"].get("UnitPrice")) == "0.49"
    assert wrong["error"]["message"].endswith("the statement wrote 81 rows, and 5 were expected")


@on_both
def test_what_a_person_reads_says_the_state_first_and_the_next_command_last(shop: Shop) -> None:
    ghost = backout(shop.folder, "ghost", "delete-customer", "--on", "shop", "--undo", "--yes", "--rows", "1")
    run = backout(shop.folder, "run", "delete-customer", "--on", "shop", "--yes", "--rows", "0")
    log = backout(shop.folder, "log", "--on", "shop")
    show = backout(shop.folder, "show", "shop-2", "--rows", "2")
    clean = backout(shop.folder, "clean", "--on", "shop")
    undo = backout(shop.folder, "undo", "shop-2", "--yes")

    for one in (ghost, run, log, show, clean, undo):
        assert (one.status, one.err) == (0, "")
    assert "\nway back   proven\n" in ghost.out
    assert ghost.out.splitlines()[-1] == "next: backout run delete-customer --on shop"
    assert "… and 35 more" in ghost.out
    assert "\nstate   committed\n" in run.out
    assert run.out.splitlines()[-1] == "next: backout undo shop-2 --on shop"
    assert [line.split()[:2] for line in log.out.splitlines()[1:]] == [["shop-2", "real"], ["shop-1", "ghost"]]
    assert show.out.startswith(
        "run       shop-2  (real)\nchange    delete-customer: Delete a customer who asked for it"
    )
    assert "… and 34 more" in show.out
    assert clean.out == "nothing to do: no rescue and no backup has expired\n"
    assert "put back" in undo.out
