"""Which hosts a URL names, by its text; and what the connect command of an environment may be."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from backout.errors import BackoutError, UsageError
from backout.project.config import ConnectCommand
from backout.project.config_file import parse_config
from backout.project.hosts import hosts_of, places_of
from backout.project.tunnel import tunnel_of

FILE = Path("/project/backout.toml")


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("postgresql://ann:se%40cret@DB.example.org:5433/clinic", (("DB.example.org", 5433),)),
        ("postgresql://db1,db2:5433/clinic?target_session_attrs=any", (("db1", 5432), ("db2", 5433))),
        ("postgresql://ann@[::1]:5433,[fe80::1]/clinic", (("::1", 5433), ("fe80::1", 5432))),
        ("postgresql:///clinic?host=/run/postgresql", (("/run/postgresql", 5432),)),
        ("postgresql://%2Frun%2Fpostgresql/clinic", (("/run/postgresql", 5432),)),
        ("postgres://db/clinic?hostaddr=10.0.0.1,10.0.0.2&port=1,2", (("db", 5432), ("10.0.0.1", 1), ("10.0.0.2", 2))),
        ("mariadb://ann:a,b@db1,db2:3307/clinic", (("db1", 3306), ("db2", 3307))),
        ("mysql://db/clinic", (("db", 3306),)),
        ("postgresql:///clinic", ()),
        ("sqlite:clinic.db", ()),
    ],
)
def test_every_place_that_a_url_could_lead_to_is_found(url: str, places: tuple[tuple[str, int], ...]) -> None:
    assert places_of(url) == places


def test_a_host_is_named_once_and_in_lower_case() -> None:
    assert hosts_of("postgresql://DB:1,db:2,other/clinic") == ("db", "other")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql:///clinic", "a connect command opens one port, and the url names none"),
        ("postgresql://a,b/clinic", "a connect command opens one port, and the url names several hosts"),
    ],
)
def test_a_connect_command_belongs_to_one_port(url: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        tunnel_of(ConnectCommand(("ssh",)), places_of(url), Path())
    assert caught.value.message == words
    assert caught.value.hint is not None


def test_a_connect_command_is_read_with_its_pattern_and_patience() -> None:
    live = '[environments.live]\nurl = "postgresql://h/d"\n'
    text = live + 'connect = {command = ["ssh", "-N"], ready = "up", timeout = "2 min"}\n'
    environment = parse_config(text, FILE).environment("live")
    assert environment.connect == ConnectCommand(("ssh", "-N"), "up", timedelta(minutes=2))
    assert parse_config(text.replace(', ready = "up", timeout = "2 min"', ""), FILE).environment("live").connect == (
        ConnectCommand(("ssh", "-N"), None, timedelta(seconds=30))
    )


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        ('{comand = ["ssh"]}', 'unknown key "comand" in [environments.live.connect]\nstate: untouched\n'
                               'hint: did you mean "command"? known are: command, ready, timeout'),
        ('{ready = "up"}', 'key "connect" has no command\nstate: untouched\nhint: connect = {command = ["ssh", "-N", "…"]}'),
        ('"ssh -N"', 'key "connect" must be a table\nstate: untouched\nhint: write [environments.live.connect]'),
        ('{command = "ssh -N"}', 'key "command" must be a list of names\nstate: untouched\nhint: command = ["…"]'),
        ('{command = ["ssh"], ready = "("}', 'key "ready" is not a pattern: missing ), unterminated subpattern at position 0\n'
                                             'state: untouched\nhint: ready = "Forwarding from"'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_connect_command_is_named(connect: str, message: str) -> None:
    with pytest.raises(BackoutError) as caught:
        parse_config(f'[environments.live]\nurl = "postgresql://h/d"\nconnect = {connect}\n', FILE)
    assert str(caught.value).partition(": ")[2] == message
