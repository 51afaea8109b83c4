"""What statements are about: a change as it is now, or the change of a run that is to be undone.

Not for: what is said about it. Invariant: the digest is that of the text which runs, read once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from backout.change.model import COMMENTS, Change
from backout.change.read import names_of_files
from backout.engines.values import RunRecord
from backout.ledger.entry import canonical
from backout.project.authors import authors_in_a_while, is_link
from backout.project.config import Config


@dataclass(frozen=True)
class Subject:
    """`path` is None where the change's file is not in the project (any more)."""

    identifier: str
    digest: str
    path: Path | None = None
    title: str = ""
    documents: Mapping[str, Any] = field(default_factory=dict)
    found_out: Callable[[], frozenset[str]] = field(default=frozenset, compare=False)  # who wrote it, once it is known
    is_link: bool = False
    binding: str = ""
    is_session: bool = False  # it is typed at a prompt
    has_subset: bool = False  # it says by @subset what a part of it is

    @cached_property
    def authors(self) -> frozenset[str]:
        """Whose text it is, as far as its metadata and git know; waits for git."""
        return self.found_out()


def subject_of(change: Change, config: Config, values: Mapping[str, Any] | None = None) -> Subject:
    """The change, with whose text it is; `values` are those of its parameters in one environment."""
    path = None if change.is_private else change.path
    files = [path.parent / name for name in names_of_files(change)] if path is not None else []
    return Subject(
        change.identifier, change.digest, path, change.metadata.title, documents_of(change),
        authors_in_a_while(change, config.people), any(is_link(one, config.folder) for one in files),
        binding_of(change, values or {}), change.metadata.session, has_subset(change),
    )  # fmt: skip


def named(change: Change) -> Subject:
    """The change by its name, text and file, for what is told and kept of it: whose text it is, is not looked for."""
    path = None if change.is_private else change.path
    return Subject(change.identifier, change.digest, path, change.metadata.title)


def subject_of_run(record: RunRecord, config: Config) -> Subject:
    """The change of a run; its file as it may have become since is not asked."""
    paths = (config.changes / f"{record.start.change}{suffix}" for suffix in COMMENTS)
    path = next((one for one in paths if one.is_file()), None)
    return Subject(record.start.change, record.start.digest, path, record.start.title)


def has_subset(change: Change) -> bool:
    """Whether a part of it can be run; a change in batches has none, see `change/subset.py`."""
    return any(one.subset for one in change.steps) and not any(one.batching for one in change.steps)


def documents_of(change: Change) -> Mapping[str, Any]:
    """What the metadata says, by key."""
    one = change.metadata
    return {
        "risk": one.risk, "mitigation": one.mitigation, "backout": one.backout, "request": one.request,
        "requested_by": one.requested_by, "date": one.date, "links": one.links, "author": one.author,
    }  # fmt: skip


def binding_of(change: Change, values: Mapping[str, Any]) -> str:
    """The digest of the values that differ per environment, which approvals are bound to; empty where there are none."""
    own = {name: repr(values[name]) for name in change.metadata.declarations if name in values}
    return hashlib.sha256(canonical(own).encode()).hexdigest() if own else ""
