"""The list of verbs: sorted by what one is doing, and helpful about a mistyped one.

Not for: the verbs themselves. Invariant: a verb is in exactly one section; one that is in none cannot be added.
"""

from __future__ import annotations

import click

from backout.change.nearest import suggest
from backout.errors import UsageError

SECTIONS = {
    "write": ("demo", "init", "new", "check", "doctor"),
    "try": ("ghost", "rehearse"),
    "act": ("run", "endpoint", "session", "replay", "undo", "resume", "pause", "cancel"),
    "look": ("status", "show", "log", "report", "audit"),
    "people": (
        "submit",
        "export",
        "approve",
        "reject",
        "consent",
        "announce",
        "object",
        "withdraw",
        "overrule",
        "claim",
        "release",
        "attest",
        "agree",
        "watch",
    ),
    "keep": ("backup", "backups", "restore", "retain", "clean"),
    "others": (
        "ci",
        "completion",
    ),
}


class Verb(click.Command):
    """A verb whose help ends with an example, printed as it is written."""

    def __init__(self, *args: object, example: str = "", **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # click's own parameters, passed on
        self.example = example

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example below the options."""
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Sections(click.Group):
    """A group that lists its verbs by section."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a verb that has its section."""
        assert sum((name or cmd.name) in verbs for verbs in SECTIONS.values()) == 1, f"{cmd.name} needs a section"
        super().add_command(cmd, name)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the sections."""
        return [verb for verbs in SECTIONS.values() for verb in verbs if verb in self.commands]

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list per section."""
        for section, verbs in SECTIONS.items():
            width = max(len(verb) for verb in self.commands)
            rows = [(f"{verb:<{width}}", self.commands[verb].get_short_help_str(90)) for verb in verbs]
            with formatter.section(section.capitalize()):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; UsageError names the nearest ones."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.commands:
            raise UsageError(f'no verb "{name}"', hint=suggest(name, self.commands))
        return super().resolve_command(ctx, args)
