"""Everyday changes of a music shop, typed by a user: the installed program, real schema and data, both databases."""

from __future__ import annotations

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
        {"playlist": (0, 0, 1), "playlist_track": (0, 0, 3290)},
        "INSERT INTO playlist (playlist_id, name) VALUES (8, 'Podcasts')",
        ("key used again since",),
        f"UPDATE playlist SET name = '{KEPT}' WHERE playlist_id = 1",
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
        ("a constraint refuses it", "changed since"),  # the album cannot go while its track stays
        f"UPDATE artist SET name = '{KEPT}' WHERE artist_id = 1",
    ),
    Everyday(
        "set-genre-price",
        {"track": (0, 81, 0)},
        "DELETE FROM track WHERE track_id = (SELECT max(track_id) FROM track WHERE genre_id = 6 AND track_id NOT IN "
        "(SELECT track_id FROM invoice_line) AND track_id NOT IN (SELECT track_id FROM playlist_track))",
        ("deleted since",),
        f"UPDATE genre SET name = '{KEPT}' WHERE genre_id = 6",
    ),
]


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    """The music shop on the server that the test names."""
    if request.param == "sqlite":
        return sqlite_shop(tmp_path)
    servers = request.getfixturevalue("postgres_servers")
    database: PostgresDatabase = servers.create_database(request.param)
    request.addfinalizer(lambda: servers.drop_database(request.param, database))
    return postgres_shop(database, tmp_path)


on_both = pytest.mark.parametrize("shop", [one for one in SERVERS if one in ("pg18", "sqlite")], indirect=True)


def cases() -> list[Any]:
    everywhere = [(server, one) for one in EVERYDAY for server in SERVERS]
    return [
        pytest.param(server, one, id=f"{one}-{server}")
        for server, one in everywhere
        if one.name == ESSENTIAL or server in ("pg18", "sqlite")
    ]


def counts(run: dict[str, Any], names: dict[str, str]) -> dict[str, tuple[int, int, int]]:
    return {
        names[bare(one["table"])]: (one["inserted"], one["updated"], one["deleted"])
        for one in run["tables"]
    }


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
    assert [one["kind"] for one in refused["conflicts"]] == [*change.kinds]
    assert (refused["error"]["code"], refused["state"]) == ("conflicts", "untouched")
    assert shop.dump() == meanwhile

    partial = told(shop.folder, "run", "undo", run["identifier"], "--partial", "--yes", status=5)
    assert [one["kind"] for one in partial["conflicts"]] == [*change.kinds]
    assert partial["outcome"] == "committed"

    numbers = ",".join(str(one["number"]) for one in partial["conflicts"])
    undone = told(shop.folder, "run", "undo", run["identifier"], "--overwrite", numbers, "--yes")
    assert (undone["outcome"], undone["conflicts"], undone["undo_of"]) == ("committed", [], run["run"])
    after = shop.dump()
    assert len(set(before) - set(after)) == 1
    assert [KEPT in line for line in set(after) - set(before)] == [True]

    run = told(shop.folder, "run", "run", change.name, "--on", "shop", "--yes")
    undone = told(shop.folder, "run", "undo", run["identifier"], "--yes")
    assert undone["conflicts"] == []
    assert "\n".join(shop.dump()) == "\n".join(after)
