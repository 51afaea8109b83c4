"""What an engine promises about a database that is made for one test and gone afterwards.

Not for: what a test means (`runs/own_tests.py`). Invariant: nothing of it is left when it is closed, and it is never one
that was there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Asked:
    """One statement of a test file and what came of it; `columns` is empty where it returns no rows."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    error: str | None = None  # what the database said, where it refused


class Throwaway(Protocol):
    """An empty database, ready to be filled. Whoever connects to `url` owns it, and has no right beyond it."""

    @property
    def url(self) -> str: ...

    def load(self, text: str, file: str) -> None:
        """Run a file of SQL and commit it; InvalidFile, with the place in `file`, where the database refuses."""

    def ask(self, statements: Sequence[str], *, tap: bool) -> Sequence[Asked]:
        """Run the statements in one transaction that is rolled back; one that fails is taken back alone.

        With `tap` they may call pgTAP. UsageError where that is not installed.
        """

    def close(self) -> None: ...
