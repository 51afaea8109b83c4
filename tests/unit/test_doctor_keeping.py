"""What `doctor` says of channels and backups before they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.project.config_file import parse_config
from backout.project.doctor_keeping import advise_on_keeping

LIVE = '[environments.live]\nurl = "sqlite:live.db"\n'


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (LIVE, []),
        (f'{LIVE}profile = "team"\nannounce = "none"\n', [("weak", 'no backup precedes the runs on "live"')]),
        (
            f'{LIVE}announce = {{to = ["team"]}}\n',
            [("wrong", '"live" announces to "team", which is not a channel')],
        ),
        (
            f'{LIVE}announce = {{to = ["team"]}}\n[channels.team]\nkind = "slack"\nurl_env = "HOOK"\n',
            [("weak", 'channel "team" cannot be used here: the variable HOOK is not set')],
        ),
        (f'{LIVE}backup = "sqlite"\n', [("weak", 'the backups of "live" are in clear')]),
        (
            f'{LIVE}backup = "sqlite"\n[tables.patient]\nphi = ["name"]\n',
            [("wrong", 'the backups of "live" are in clear, and columns are declared PHI: every run is refused')],
        ),
        (f'{LIVE}backup = {{provider = "sqlite", recipients = ["age1x"]}}\n', []),
        (
            f'{LIVE}backup = {{provider = "command", take = "tool take"}}\n',
            [("weak", 'the backups of "live" have no `restore` command')],
        ),
    ],
)
def test_what_would_fail_is_said(text: str, advice: list[tuple[str, str]]) -> None:
    found = advise_on_keeping(parse_config(text, Path("/project/backout.toml")), {})
    assert advice == [(one.level, one.text) for one in found]
