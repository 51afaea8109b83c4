"""Options and arguments that verbs share, with what the shell completes for them.

Not for: what they do. Invariant: nothing is imported here but click, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backout.change.nearest import suggest
from backout.cli.group import Verb
from backout.errors import BackoutError, UsageError

if TYPE_CHECKING:
    from backout.project.config import Config

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def verb(name: str, *, example: str) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function a verb; its docstring is the help."""
    return click.command(name, cls=Verb, example=example)


def config_of(ctx: click.Context) -> Config:
    """Return the configuration that the command line names, for hints and for the shell's completion."""
    from backout.project.config_file import load_config

    path = ctx.params.get("config")
    return load_config(Path(path) if path else None)


def _complete_environment(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    try:
        return [name for name in config_of(ctx).environments if name.startswith(incomplete)]
    except BackoutError:
        return []  # a shell has no place for an error


def _complete_change(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    from backout.change.model import COMMENTS

    try:
        folder = config_of(ctx).changes
    except BackoutError:
        return []
    files = sorted(one for one in folder.glob("*") if one.suffix in COMMENTS)
    names = [one.stem for one in files if one.stem.startswith(incomplete)]
    kind = "plain" if names or not incomplete else "file"  # neither an id so far: let the shell complete a path
    return [click.shell_completion.CompletionItem(name, kind) for name in names or [incomplete] if name]


def _parameters(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not separator or not name:
            raise UsageError(f'"--param {name}" has no value', hint="write --param name=value")
        if name in values:
            raise UsageError(f'parameter "{name}" is given twice', hint="keep one of them")
        values[name] = value
    return values


def _reveal(ctx: click.Context, _param: click.Parameter, given: bool) -> bool:
    from backout.cli.screen import is_terminal

    if given and not ctx.resilient_parsing and not (is_terminal() and sys.stdout.isatty()):
        raise UsageError("--reveal needs a terminal", hint="what is written to a file or a pipe stays masked")
    return given


def _numbers(_ctx: click.Context, _param: click.Parameter, given: str | None) -> frozenset[int]:
    try:
        return frozenset(int(one) for one in (given or "").split(",") if one.strip())
    except ValueError:
        raise UsageError("--overwrite takes the numbers of conflicts", hint="for example --overwrite 1,3") from None


def on_option(*, required: bool) -> Callable[[Decorated], Decorated]:
    """`--on ENV`; where it is required and missing, the error names the environments."""

    def required_on(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
        if value is None and required and not ctx.resilient_parsing:
            known = config_of(ctx).environments
            hint = (
                f"--on ENVIRONMENT; {suggest('', known)}" if known else "name an environment of backout.toml, or a URL"
            )
            raise UsageError("where? --on is missing", hint=hint)
        return value

    return click.option(
        "--on", metavar="ENV", callback=required_on, shell_complete=_complete_environment,
        help="Environment of backout.toml, or the URL of a database.",
    )  # fmt: skip


def require_no_json(*, reveal: bool, json_: bool) -> None:
    """What a program reads holds no PHI."""
    if reveal and json_:
        raise UsageError("--reveal and --json do not go together", hint="leave one of them out")


CHANGE = click.argument("change", metavar="CHANGE", shell_complete=_complete_change)
CONFIG = click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path), is_eager=True,
    help="Configuration file. [default: backout.toml here or above]",
)  # fmt: skip
JSON = click.option("--json", "json_", is_flag=True, help="Print one JSON object on standard output.")
YES = click.option("--yes", "-y", is_flag=True, help="Answer yes to confirmations.")
ROWS = click.option(
    "--rows", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
    help="Rows to show per table, before and after.",
)  # fmt: skip
KEY = click.option(
    "--key", metavar="FILE", type=click.Path(path_type=Path),
    help="The SSH key to sign with. [default: $BACKOUT_KEY, git's user.signingkey, the agent's]",
)  # fmt: skip
WHY_EMERGENCY = click.option(
    "--why", metavar="TEXT", help="With --emergency: what cannot wait; two people read it afterwards."
)
EMERGENCY = click.option(
    "--emergency", is_flag=True, help="Wait for nobody: only for whom the policy names, and it owes a review."
)
REVEAL = click.option(
    "--reveal", is_flag=True, callback=_reveal,
    help="Show rows that are PHI as they are; at a terminal only, and it is recorded.",
)  # fmt: skip
PARAM = click.option(
    "-p", "--param", "param", multiple=True, metavar="NAME=VALUE", callback=_parameters,
    help="Value of a parameter of the change; can be repeated.",
)  # fmt: skip
SUBSET = click.option(
    "--subset", metavar="KEYS",
    help='Only some of it: "50 rows", or a condition like "id <= 100" on the key that the change declares by @subset.',
)  # fmt: skip
SUPERUSER = click.option(
    "--allow-superuser", is_flag=True, help="Let the change run as a superuser, whom no right of the database stops."
)
OVERWRITE = click.option(
    "--overwrite", metavar="N,N", callback=_numbers, help="Restore these conflicts too; numbers from the list."
)
