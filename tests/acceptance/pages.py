"""The documentation's own examples: files, console sessions and code blocks, read from a Markdown page.

A block below `<!-- file: NAME -->` is a file. A `console` block is commands after `$ `, each with its output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

_BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

#: What differs from one run to the next, and how it stands on the page.
_VARYING = (
    (re.compile(r"\d+\.\d+ s\b"), "0.01 s"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"), "2026-11-20 09:00 UTC"),
    (re.compile(r"SQLite \d+\.\d+\.\d+"), "SQLite 3.50.0"),
    (re.compile(r"free \d+(\.\d+)? (kB|MB|GB|TB)"), "free 100.0 GB"),
    (re.compile(r" +$", re.MULTILINE), ""),
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    file: str | None
    language: str
    text: str
    start: int  # of the text in the page
    end: int


def blocks(page: Path) -> Iterator[Block]:
    """The page's blocks in their order."""
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["file"], match["language"], match["text"], match.start("text"), match.end("text"))


def write_file(block: Block, folder: Path) -> None:
    """Write a file that the page shows."""
    assert block.file is not None
    path = folder / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def typed(text: str, folder: Path) -> str:
    """Type the commands of a console block into a shell; the block as it is now, made comparable."""
    told = []
    for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
        finished = subprocess.run(
            ["/bin/sh", "-c", command],
            check=False,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        told.append(f"$ {command}\n{finished.stdout.replace(str(folder), '/home/ada/shop')}")
    return _comparable("".join(told))


def _comparable(text: str) -> str:
    """The text without what differs from one run to the next."""
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return text


def _environment() -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "LOGNAME": "ada"}
