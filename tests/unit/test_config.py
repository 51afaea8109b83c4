"""`backout.toml`: what it means, and whole texts of what is wrong with it."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from backout.change.durations import parse_duration
from backout.cli.configuration import KEYS
from backout.engines.values import Settings, TableName
from backout.errors import BackoutError
from backout.project.channels import CHANNEL_KEYS
from backout.project.config import Config, Environment, database_name, shown_url
from backout.project.config_file import ENVIRONMENT_KEYS, PROJECT_KEYS, load_config, parse_config
from backout.project.config_template import TEMPLATE
from backout.project.engine import usual_dialect
from backout.project.people_file import PERSON_KEYS
from backout.project.toml_table import parse_size
from backout.sql.model import Dialect

FILE = Path("/project/backout.toml")
FULL = """
[project]
name = "clinic"
changes = "db/changes"

[undo]
bookkeeping = ["updated_at"]
append_only = ["audit_log"]

[tables.referral]
bookkeeping = ["lock_version"]

[environments.dev]
url = "sqlite:dev.db"

[environments.production]
url = "postgresql://backout:${CLINIC_PASSWORD}@db.example.org/clinic"
role = "clinic_app"
superuser = "allow"
lock_timeout = 2
statement_timeout = "2 min"
keep = "24 hours"
rescue_schema = "kept"
min_proof = "exact"
isolation = "repeatable read"
scan_limit = "1 GB"
arm = ["public.audit_log"]
[environments.production.parameters]
cutoff = 2026-11-14
"""


def test_a_full_file_is_read() -> None:
    config = parse_config(FULL, FILE)
    assert config == Config(
        path=FILE,
        folder=Path("/project"),
        name="clinic",
        changes=Path("/project/db/changes"),
        bookkeeping=("updated_at",),
        append_only=("audit_log",),
        tables={"referral": ("lock_version",)},
        environments={
            "dev": Environment("dev", url="sqlite:dev.db"),
            "production": Environment(
                "production",
                url="postgresql://backout:${CLINIC_PASSWORD}@db.example.org/clinic",
                role="clinic_app",
                superuser_allowed=True,
                lock_timeout=timedelta(seconds=2),
                statement_timeout=timedelta(minutes=2),
                keep=timedelta(days=1),
                rescue_schema="kept",
                min_proof="exact",
                isolation="repeatable read",
                scan_limit_bytes=2**30,
                arm=("public.audit_log",),
                parameters={"cutoff": date(2026, 11, 14)},
            ),
        },
    )


def test_settings_carry_the_policy_to_the_engine() -> None:
    config = parse_config(FULL, FILE)
    settings = config.settings(config.environment("production"), {"CLINIC_PASSWORD": "s3cret"})
    assert settings == Settings(
        url="postgresql://backout:s3cret@db.example.org/clinic",
        environment="production",
        role="clinic_app",
        superuser_allowed=True,
        lock_timeout_s=2.0,
        statement_timeout_s=120.0,
        isolation="repeatable read",
        rescue_schema="kept",
        scan_limit_bytes=2**30,
        arm=("public.audit_log",),
        append_only=("audit_log",),
        bookkeeping=("updated_at",),
    )
    assert config.environment("production").keep_days == 1.0


def test_a_table_has_its_own_bookkeeping_instead_of_the_projects() -> None:
    config = parse_config(FULL, FILE)
    assert config.bookkeeping_of(TableName("public", "referral")) == ("lock_version",)
    assert config.bookkeeping_of(TableName("public", "note")) == ("updated_at",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[project]\nname = \n",
            "2:8: not valid TOML: invalid value\nstate: untouched",
        ),
        (
            "[environments.dev\n",
            "1:18: not valid TOML: expected ']' at the end of a table declaration\nstate: untouched",
        ),
        (
            "# ours\n[projekt]\n",
            (
                '2:2: unknown key "projekt"\nstate: untouched\n'
                'hint: did you mean "project"? known are: channels, environments, people, project, tables, undo'
            ),
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\n  lock_timout = 5\n',
            (
                '3:3: unknown key "lock_timout" in [environments.dev]\nstate: untouched\nhint: did you mean '
                '"lock_timeout"?'
            ),
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nkeep = "a week"\n',
            (
                '3:1: key "keep" may not be "a week"\nstate: untouched\nhint: write a number and its unit: '
                '"5 seconds", "2 min", "24 hours", "7 days"; a bare number is seconds'
            ),
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nlock_timeout = 0\n',
            (
                '3:1: key "lock_timeout" may not be 0\nstate: untouched\nhint: write a number and its unit: '
                '"5 seconds", "2 min", "24 hours", "7 days"; a bare number is seconds'
            ),
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nsuperuser = true\n',
            '3:1: key "superuser" may not be true\nstate: untouched\nhint: known are: allow, refuse',
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nanalyze = 1\n',
            '3:1: key "analyze" may not be 1\nstate: untouched\nhint: write true or false',
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nquiet_hours = ["at noon"]\n',
            (
                '3:1: key "quiet_hours" may not hold "at noon"\nstate: untouched\n'
                'hint: write days, hours and a time zone: quiet_hours = ["Mon-Thu 09:00-17:00 Europe/Berlin"]'
            ),
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nmin_proof = "exakt"\n',
            (
                '3:1: key "min_proof" may not be "exakt"\nstate: untouched\n'
                'hint: did you mean "exact"? known are: bounded, exact, repeated'
            ),
        ),
        (
            '[environments.dev]\nrole = "app"\n',
            (
                '1:2: environment "dev" has no URL\nstate: untouched\n'
                'hint: write url = "…", url_env = "…" or url_file = "…"'
            ),
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nurl_env = "DEV"\n',
            (
                '1:2: environment "dev" has more than one URL: url, url_env\nstate: untouched\n'
                'hint: write url = "…", url_env = "…" or url_file = "…"'
            ),
        ),
        (
            'environments = "dev"\n',
            '1:1: key "environments" must be a table\nstate: untouched\nhint: write [environments]',
        ),
        (
            '[undo]\nbookkeeping = "updated_at"\n',
            '2:1: key "bookkeeping" must be a list of names\nstate: untouched\nhint: bookkeeping = ["…"]',
        ),
        (
            "[project]\nname = 7\n",
            '2:1: key "name" must be text, and not empty\nstate: untouched\nhint: name = "…"',
        ),
        (
            '[environments."my db"]\nurl = "sqlite:a.db"\n',
            (
                '1:2: environment "my db" is not a name\nstate: untouched\n'
                "hint: use letters, digits, dots, hyphens, underscores"
            ),
        ),
        (
            '[environments.dev]\nurl = "sqlite:a.db"\nparameters.cutoff = {day = 1}\n',
            '3:1: parameter "cutoff" is neither a value nor a list of one type\nstate: untouched',
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(BackoutError) as caught:
        parse_config(text, FILE)
    assert str(caught.value) == f"{FILE}:{message}"


def test_a_missing_variable_is_an_error_when_the_environment_is_used_and_not_before() -> None:
    environment = parse_config(FULL, FILE).environment("production")
    with pytest.raises(BackoutError) as caught:
        environment.resolved_url({})
    assert str(caught.value) == (
        'environment "production" needs the variable CLINIC_PASSWORD, which is not set\n'
        "state: untouched\n"
        "hint: set it for this command: CLINIC_PASSWORD=… backout …"
    )


def test_a_url_can_be_in_a_variable_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sqlite:kept.db\n")
    text = '[environments.a]\nurl_env = "A_URL"\n[environments.b]\nurl_file = "secret"\n'
    config = parse_config(text, tmp_path / "backout.toml")
    assert config.environment("a").resolved_url({"A_URL": "sqlite:a.db"}) == "sqlite:a.db"
    assert config.environment("b").resolved_url({}) == "sqlite:kept.db"


@pytest.mark.parametrize(
    ("environment", "dialect"),
    [
        ('url = "${A_URL}"', Dialect.SQLITE),
        ('url_env = "A_URL"', Dialect.SQLITE),
        ('url_file = "a"', Dialect.MARIADB),
        ('url = "${UNSET}"', Dialect.POSTGRES),
        ('url_file = "missing"', Dialect.POSTGRES),
        ('url = "sqlite:b.db"\n[environments.b]\nurl_env = "A_URL"', Dialect.SQLITE),
        ('url = "mariadb://h/d"\n[environments.b]\nurl_env = "A_URL"', Dialect.POSTGRES),
    ],
)
def test_a_change_is_read_as_the_environments_speak_however_their_urls_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str, dialect: Dialect
) -> None:
    monkeypatch.setenv("A_URL", "sqlite:a.db")
    (tmp_path / "a").write_text("mariadb://h/d\n")
    config = parse_config(f"[environments.a]\n{environment}\n", tmp_path / "backout.toml")
    assert usual_dialect(config.environments.values()) is dialect


def test_a_url_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    config = parse_config('[environments.b]\nurl_file = "secret"\n', tmp_path / "backout.toml")
    with pytest.raises(BackoutError) as caught:
        config.environment("b").resolved_url({})
    assert str(caught.value) == (
        f'unable to read the URL of environment "b" from "{tmp_path}/secret": no such file or directory\n'
        "state: untouched\n"
        "hint: its first line must be the URL"
    )


def test_an_unknown_environment_is_suggested() -> None:
    with pytest.raises(BackoutError) as caught:
        parse_config(FULL, FILE).environment("prodution")
    assert str(caught.value) == (
        'no environment "prodution" in /project/backout.toml\nstate: untouched\n'
        'hint: did you mean "production"? known are: dev, production'
    )


def test_a_url_needs_no_configuration() -> None:
    config = Config()
    assert config.environment("postgresql://me@host/clinic").name == "clinic"
    assert config.environment("sqlite:///data/clinic.db").name == "clinic"
    with pytest.raises(BackoutError) as caught:
        config.environment("production")
    assert str(caught.value) == (
        'no environment "production": there is no backout.toml here or above\nstate: untouched\n'
        "hint: name a database by its URL, or make a backout.toml: backout init"
    )


def test_a_file_of_sqlite_is_a_url(tmp_path: Path) -> None:
    file = tmp_path / "clinic.sqlite"
    file.touch()
    assert Config().environment(str(file)) == Environment("clinic", url=f"sqlite:{file}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:s3cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@ss@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?password=s3cret&user=me", "postgresql://host/db?password=***&user=me"),
        ("postgresql://host/db?sslpassword=s3cret", "postgresql://host/db?sslpassword=***"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("sqlite:///clinic.db", "sqlite:///clinic.db"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me@host/my%20db", "my_db"),
        ("postgresql://me@host", "me"),
        ("postgresql://host", "database"),
        ("sqlite::memory:", "memory"),
        ("sqlite:///a/b.db?foreign_keys=off", "b"),
    ],
)
def test_a_database_gives_its_name_to_its_runs(url: str, name: str) -> None:
    assert database_name(url) == name


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        ("5 seconds", timedelta(seconds=5)),
        ("1.5h", timedelta(minutes=90)),
        ("200 ms", timedelta(milliseconds=200)),
        ("2 Weeks", timedelta(days=14)),
        (90, timedelta(seconds=90)),
        (True, None),
        ("soon", None),
        ("-1 s", None),
        (float("inf"), None),
        (float("nan"), None),
        ("9999999999 weeks", None),
    ],
)
def test_durations(written: object, duration: timedelta | None) -> None:
    assert parse_duration(written) == duration


def test_the_file_is_found_above_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "backout.toml").write_text(TEMPLATE)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert load_config(start=below).path == tmp_path / "backout.toml"


def test_the_template_is_valid_as_it_is_and_with_its_examples() -> None:
    assert parse_config(TEMPLATE, FILE).bookkeeping == ("updated_at",)
    lines = [line.removeprefix("# ") if " = " in line or "[" in line else line for line in TEMPLATE.split("\n")]
    config = parse_config("\n".join(lines), FILE)
    assert list(config.environments) == ["dev", "production"]
    assert config.environment("production").statement_timeout == timedelta(minutes=2)


def test_every_key_is_documented_and_no_other() -> None:
    documented = {table: {key for key, _, _ in keys} for table, keys in KEYS.items()}
    assert documented == {
        "project": set(PROJECT_KEYS),
        "people.NAME": set(PERSON_KEYS),
        "undo": {"bookkeeping", "append_only"},
        "channels.NAME": set(CHANNEL_KEYS),
        "tables.NAME": {"bookkeeping", "phi"},
        "environments.NAME": set(ENVIRONMENT_KEYS),
    }


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("8 GB", 8 * 2**30),
        ("1.5 tb", 3 * 2**39),
        ("500MB", 500 * 2**20),
        ("64 kB", 2**16),
        ("0 b", 0),
        (0, 0),
        (4096, 4096),
        ("8", None),
        ("8 gigs", None),
        (-1, None),
        (True, None),
        ("much", None),
    ],
)
def test_sizes(written: object, size: int | None) -> None:
    assert parse_size(written) == size
