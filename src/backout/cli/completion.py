"""The verb `completion`: the script with which a shell completes verbs, options, changes and environments."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from backout.cli.options import verb
from backout.cli.screen import show_text

VARIABLE = "_BACKOUT_COMPLETE"


@verb("completion", example='eval "$(backout completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets your shell complete verbs and names.

    With it, TAB also completes the changes and environments of the project.
    """
    made = get_completion_class(shell)
    assert made is not None, "click knows these three"
    show_text(made(ctx.find_root().command, {}, "backout", VARIABLE).source())
