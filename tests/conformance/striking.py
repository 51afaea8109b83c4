"""A process that does something to a database and is hit at a chosen moment; and what must be true afterwards.

The moments are counted in words that the library says to the database, so that each boundary of a run can be hit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from backout.engines.values import RunRecord, RunState
from backout.errors import BackoutError
from conformance import victim
from conformance.stage import Stage, wait_until, yes
from conformance.target import Dump, Target
from conformance.victim import Order
from properties.driving import SHORTER

CHANGE = """-- /// change
-- title = "Something of everything"
-- ///
UPDATE parent SET v = v + 1 WHERE id <= 50;
UPDATE parent SET v = v * 2 WHERE id <= 20;
DELETE FROM parent WHERE id BETWEEN 90 AND 100;
INSERT INTO child VALUES (1001, 7, 1), (1002, 7, 2), (1003, 8, 3);
DELETE FROM other WHERE v = 3;
"""


@dataclass
class Scene:
    """A database as it is before and after the change, and a process that is about to be hit."""

    stage: Stage
    process: subprocess.Popen[str]
    before: Dump = field(default_factory=dict)
    after: Dump = field(default_factory=dict)

    @property
    def target(self) -> Target:
        return self.stage.target

    @property
    def order(self) -> Order:
        return Order(self.target.engine, str(self.stage.folder), "run")

    def come_back(self) -> None:
        """Wait for the server, where it is one that was hit."""

    def dump(self) -> Dump:
        """All rows; those of the audit log without their numbers, which no undo gives back to the database."""
        found = self.stage.dump()
        return found | {"audit": sorted(({"what": row["what"]} for row in found["audit"]), key=repr)}

    def send(self, order: Order) -> dict[str, Any]:
        """Have the order obeyed; returns how the child ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(victim.as_line(order))
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert found["status"] != victim.NOT_OURS, found
        return found

    def settled(self, since: int) -> RunRecord | None:
        """The run that came after `since`, once the log has settled it."""
        records: list[RunRecord] = []

        def is_settled() -> bool:
            records[:] = [one for one in self.stage.log() if one.number > since]
            return all(one.state is not RunState.RUNNING for one in records)

        wait_until(is_settled)
        assert len(records) <= 1
        return records[0] if records else None

    def last_run(self) -> int:
        return max((one.number for one in self.stage.project.log("test", limit=1)), default=0)

    def nothing_left(self) -> None:
        """Each rescue table belongs to a run that committed, and no session or lock of ours is left."""
        wait_until(lambda: not self.target.leftovers())
        committed = {
            one.number for one in self.stage.project.log("test", limit=1_000_000) if one.state is RunState.COMMITTED
        }
        for name in self.target.rescue_tables():
            found = re.search(r"run_(\d+)_", name)
            assert found, name
            assert int(found[1]) in committed, name


SomeScene = TypeVar("SomeScene", bound=Scene)


@contextmanager
def set_up(stage: Stage, kind: Callable[[Stage, subprocess.Popen[str]], SomeScene]) -> Iterator[SomeScene]:
    """The database as it is before the change, and the process; what the change makes of it is known."""
    dialect = stage.target.dialect
    stage.make(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, v INTEGER);"
        "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER, v INTEGER, "
        "FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE);"
        "CREATE TABLE other (id INTEGER PRIMARY KEY, v INTEGER);"
        f"CREATE TABLE audit ({dialect.counted}, what varchar(20))"
    )
    stage.make(dialect.numbers("parent", 200, "i, i"))
    stage.make(dialect.numbers("child", 400, "i, (i % 100) + 1, i"))
    stage.make(dialect.numbers("other", 50, "i, i % 7"))
    for statement in dialect.audit if stage.target.capabilities.keeps_triggers_out else ():
        stage.make(statement.format(table="parent", audit="audit"))
    stage.options = {}
    stage.write_config()
    (stage.folder / "change.sql").write_text(CHANGE, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, victim.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found = kind(stage, process)
    found.before = found.dump()
    try:
        report = stage.project.run(stage.project.change(str(stage.folder / "change.sql")), "test", ask=yes)
        found.after = found.dump()
        assert found.before != found.after
        stage.undo(report)
        assert found.before == found.dump()
        yield found
    finally:
        process.communicate()


def strike(scene: Scene, order: Order) -> dict[str, Any]:
    """One round: from a known state, be hit, and compare the journal with the data; ends where it began."""
    undoing, stage = order.action == "undo", scene.stage
    change = stage.project.change(str(stage.folder / "change.sql"))
    if undoing:
        order = replace(order, run=stage.project.run(change, "test", ask=yes).identifier)
    start, since = scene.dump(), scene.last_run()
    told = scene.send(order)
    scene.come_back()
    record = scene.settled(since)
    scene.nothing_left()
    committed = record is not None and record.state is RunState.COMMITTED
    if committed:
        assert record is not None
        assert order.action != "ghost"
        assert (scene.before if undoing else scene.after) == scene.dump()
        assert any(f"run_{record.number}_" in name for name in scene.target.rescue_tables())
        if not undoing:
            stage.undo(record.identifier)
    else:
        assert record is None or record.state in {RunState.INTERRUPTED, RunState.ROLLED_BACK}, record
        assert start == scene.dump()
        if undoing:
            stage.undo(order.run)
        else:
            stage.project.ghost(change, "test", ask=yes)  # nobody is in the way
    assert scene.before == scene.dump()
    if told["status"] == 0 and order.action != "ghost":
        assert committed, told
    if told["status"] in {2, 3, 4, 5, 6, 7, 8}:
        assert not committed, f"committed, though told {told}"
    return told


def each(scene: Scene, action: str, blow: str, moments: Callable[[int], list[int]]) -> None:
    told = strike(scene, replace(scene.order, action=action))
    assert told["status"] == 0, told
    for moment in moments(int(told["words"])):
        try:
            strike(scene, replace(scene.order, action=action, blow=blow, moment=moment))
        except (AssertionError, BackoutError):
            print(f"{action}: {blow} at word {moment} of {told['words']}")
            raise


def some(count: int) -> list[int]:
    """Two in the middle, and the last ones, in which the run becomes true."""
    return sorted({1, count // 3, 2 * count // 3, *range(max(1, count - 5), count + 1, SHORTER)})


def every(count: int) -> list[int]:
    return list(range(1, count + 1))
