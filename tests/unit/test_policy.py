"""The keys of a policy and of people: what they mean, and whole texts of what is wrong with them."""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backout.errors import InvalidFile, UsageError
from backout.gates.people import Person
from backout.gates.policy import PROFILES, AnnouncePolicy, BackupPolicy, Policy, Window
from backout.project.config import Config, Environment
from backout.project.config_file import parse_config
from backout.project.policy import read_window

FILE = Path("/project/backout.toml")
URL = 'url = "sqlite:a.db"\n'
PEOPLE = '[people.ann]\nemail = "ann@example.org"\nroles = ["lead"]\nteams = ["core"]\n'


def policy(text: str, name: str = "production", before: str = "") -> Policy:
    config = parse_config(f"{before}\n[environments.staging]\n{URL}\n[environments.{name}]\n{URL}{text}", FILE)
    return config.environment(name).policy


@pytest.mark.parametrize(
    ("name", "project", "own", "profile"),
    [
        ("production", "", "", "team"),
        ("live", "", "", "solo"),
        ("production", 'profile = "solo"', "", "solo"),
        ("production", 'profile = "solo"', 'profile = "hipaa"', "hipaa"),
        ("live", 'profile = "hipaa"', "", "hipaa"),
        ("live", 'profile = "hipaa"', 'profile = "solo"', "solo"),
    ],
)
def test_the_profile_is_the_environments_or_the_projects_or_that_of_the_name(
    name: str, project: str, own: str, profile: str
) -> None:
    assert policy(f"{own}\n", name, f"[project]\n{project}") == PROFILES[profile]


def test_where_one_rehearses_the_projects_profile_does_not_reach() -> None:
    config = parse_config(
        f'[project]\nprofile = "team"\n[environments.staging]\n{URL}[environments.production]\n{URL}', FILE
    )
    assert config.environment("staging").policy == PROFILES["solo"]
    assert config.environment("production").policy == PROFILES["team"]


def test_a_production_without_any_file_is_strict_and_so_is_its_url() -> None:
    assert Environment("production").policy == PROFILES["team"]
    assert Config().environment("sqlite:///data/production.db").policy == PROFILES["team"]
    assert Config().environment("sqlite:///data/test.db").policy == PROFILES["solo"]
    assert not PROFILES["solo"].needs_people
    assert PROFILES["team"].needs_two_people


def test_every_key_overrides_its_profile() -> None:
    found = policy(
        'profile = "hipaa"\nidentity = "os-user"\nafter = []\nrehearsals = 3\naccept_ghost_undo = true\n'
        'approvals = ["four"]\nroles = {four = ["lead", "core"]}\nconsent = false\ndocuments = ["links"]\n'
        'announce = {to = ["dev"], before = "2 hours"}\noverrule = "lead"\nwindow = "09:00-17:00"\n'
        'operators = ["ann"]\nemergency = ["core"]\nsubset = true\nreveal = "lead"\nattest = 0\nhosts = ["db"]\n'
        'backup = {provider = "command", take = "tool take", max_age = "1 day", recipients = ["age1"], mirrors = ["east"]}\n',
        before=PEOPLE,
    )
    assert found == Policy(
        profile="hipaa", identity="os-user", after=(), rehearsals=3, accept_ghost_undo=True, approvals=("four",),
        roles={"four": ("lead", "core")}, consent=False, documents=("links",),
        announce=AnnouncePolicy(("dev",), timedelta(hours=2)), overrule=("lead",),
        window=(Window(frozenset(range(7)), time(9), time(17), ZoneInfo("UTC"), "09:00-17:00"),), operators=("ann",),
        emergency=("core",), subset=True, reveal=("lead",), attest=0, hosts=("db",),
        backup=BackupPolicy("command", None, ("age1",), timedelta(days=1), ("east",), {"take": "tool take"}),
    )  # fmt: skip


def test_announcement_and_backup_can_be_taken_out() -> None:
    found = policy('announce = "none"\nbackup = "none"\n')
    assert (found.announce, found.backup) == (None, None)
    assert policy('backup = "pg_dump"\n').backup == BackupPolicy("pg_dump")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('profile = "tem"', 'key "profile" may not be "tem"\nstate: untouched\nhint: did you mean "team"? '
                            'known are: hipaa, solo, team'),
        ('after = ["stagin"]', 'key "after" names "stagin", which is not an environment\nstate: untouched\n'
                               'hint: did you mean "staging"? known are: staging'),
        ('after = ["production"]', 'key "after" names itself\nstate: untouched\nhint: known are: staging'),
        ('approvals = ["a", "a"]', 'key "approvals" names "a" twice\nstate: untouched\n'
                                   'hint: give each its own name: approvals = ["first", "second"]'),
        ('documents = ["risks"]', 'key "documents" may not name "risks"\nstate: untouched\nhint: did you mean "risk"? '
                                  'known are: author, backout, date, links, mitigation, request, requested_by, risk'),
        ('rehearsals = 0', 'key "rehearsals" must be a whole number, at least 1\nstate: untouched\nhint: rehearsals = 2'),
        ('consent = "yes"', 'key "consent" must be true or false\nstate: untouched\nhint: consent = true'),
        ('operators = ["an"]', 'key "operators" names "an", which nobody is\nstate: untouched\nhint: did you mean "ann"? '
                               'known are: ann, ann@example.org, core, lead'),
        ('operators = [7]', 'key "operators" must name people, roles or teams\nstate: untouched\nhint: operators = ["…"]'),
        ('window = "daily"', 'key "window" may not hold "daily"\nstate: untouched\nhint: write days, hours and a time zone: '
                             'window = ["Mon-Thu 09:00-17:00 Europe/Berlin"]'),
        ('backup = "pgdump"', 'key "backup" may not be "pgdump"\nstate: untouched\nhint: did you mean "pg_dump"? '
                              'known are: command, mariadb-dump, none, pg_dump, pitr, sqlite'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_key_is_named_with_its_place(key: str, message: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        policy(f"{key}\n", before=PEOPLE)
    place, _, said = str(caught.value).partition(": ")
    assert said == message
    assert place.startswith(f"{FILE}:")
    assert place.endswith(":1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('roles = {x = "lead"}\n', 'key "roles" names the approval "x", which is not asked for'),
        ("announce = {too = []}\n", 'unknown key "too" in [environments.production.announce]'),
        ('backup = {provider = "command"}\n', 'backup by provider "command" has no "take"'),
        ('roles = {safety = "led"}\n', 'key "roles" names "led", which nobody is'),
    ],
)
def test_what_is_wrong_inside_a_key_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        policy(text, before=PEOPLE)
    assert caught.value.message.partition(": ")[2] == message


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("Mon-Thu 09:00-17:00 Europe/Berlin", ({0, 1, 2, 3}, time(9), time(17), "Europe/Berlin")),
        ("sat-mon 22:00-04:00", ({5, 6, 0}, time(22), time(4), "UTC")),
        ("Tue,Fri 00:00-23:59 UTC", ({1, 4}, time(0), time(23, 59), "UTC")),
        ("09:00-17:00", (set(range(7)), time(9), time(17), "UTC")),
        ("Mon 09:00", None),
        ("Mon 25:00-26:00", None),
        ("Mum 09:00-10:00", None),
        ("Mon 09:00-10:00 Nowhere/Land", None),
        ("Mon 09:00-10:00 ../etc", None),
    ],
)
def test_windows(text: str, window: tuple[set[int], time, time, str] | None) -> None:
    found = read_window(text)
    shown = (set(found.days), found.since, found.until, found.zone.key) if found else None
    assert shown == window


# -- people


def test_people_are_in_the_file_or_in_one_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "people.toml").write_text('[people.bob]\nemail = ["bob@example.org", "bob@home.example"]\n')
    config = parse_config(f'[project]\npeople = "people.toml"\n{PEOPLE}', tmp_path / "backout.toml")
    assert set(config.people.known) == {"ann", "bob"}
    assert config.people.find("BOB@home.example") == Person("bob", ("bob@example.org", "bob@home.example"))
    assert config.people.canonical("Ann <ann@example.org>") == "ann"
    assert config.people.canonical("Zoe <Zoe@Example.org>") == "zoe@example.org"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{PEOPLE}[people.bob]\nemail = "ANN@example.org"\n', '"ANN@example.org" is the address of "ann" already'),
        ('[people.bob]\nemail = "bob"\n', 'key "email" must be an address, or a list of them'),
        ('[people.bob]\nmail = "bob@example.org"\n', 'unknown key "mail" in [people.bob]'),
    ],
)
def test_what_is_wrong_with_a_person_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        parse_config(text, FILE)
    assert caught.value.message.partition(": ")[2] == message


def test_a_file_of_people_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config('[project]\npeople = "who.toml"\n', tmp_path / "backout.toml")
    assert caught.value.message == f'unable to read the people in "{tmp_path / "who.toml"}": no such file or directory'


def test_a_ledger_takes_its_secrets_from_the_process() -> None:
    config = parse_config('[project]\nledger = "postgresql://me:${OPS}@host/ops"\n', FILE)
    assert config.ledger_url({"OPS": "s3cret"}) == "postgresql://me:s3cret@host/ops"
    with pytest.raises(UsageError) as caught:
        config.ledger_url({})
    assert caught.value.message == "the ledger needs the variable OPS, which is not set"
    assert parse_config("", FILE).ledger_url({}) == "sqlite:////project/.backout/ledger.sqlite"
