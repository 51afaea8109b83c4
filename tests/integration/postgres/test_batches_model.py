"""Pause, signal, lost session, resume, cancel, undo of single batches: any order of them, against a model."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from backout.errors import BackoutError, Interrupted, Refused
from integration.postgres.stage import Stage, backends, stage_for, yes
from properties.driving import SHORTER
from servers import PostgresDatabase

BATCHES, SIZE = 5, 4
CHANGE = f"-- @batch t by=id size={SIZE}\nUPDATE t SET v = v + 1"

STOPS = ("pause", "signal", "lost")
ACTIONS = st.one_of(
    st.tuples(st.just("go"), st.integers(1, BATCHES), st.sampled_from(STOPS)),
    st.tuples(st.just("undo"), st.integers(1, BATCHES), st.just("")),
    st.tuples(st.just("undo all"), st.just(0), st.just("")),
    st.tuples(st.just("cancel"), st.just(0), st.just("")),
)


@dataclass
class Model:
    """What must be true: of each batch whether it is committed and whether it is undone; of the run whether it goes on."""

    begun: bool = False
    committed: int = 0
    undone: set[int] = field(default_factory=set)
    over: bool = False  # finished or cancelled

    @property
    def may_go(self) -> bool:
        return not self.begun or not (self.over or self.undone)

    def rows(self) -> list[tuple[int, int]]:
        changed = set(range(1, self.committed + 1)) - self.undone
        return [(row, int((row - 1) // SIZE + 1 in changed)) for row in range(1, BATCHES * SIZE + 1)]


@settings(max_examples=12 // SHORTER)
@given(actions=st.lists(ACTIONS, min_size=2, max_size=6))
def test_any_order_of_commands_leaves_what_the_model_says(
    postgres18: PostgresDatabase, tmp_path_factory: object, actions: list[tuple[str, int, str]]
) -> None:
    folder: Path = tmp_path_factory.mktemp("model")  # type: ignore[attr-defined]
    (folder / "changes").symlink_to(folder)
    stage, model = stage_for(postgres18, folder), Model()
    postgres18.execute("DROP SCHEMA IF EXISTS backout, rescue CASCADE; DROP TABLE IF EXISTS t")
    stage.make(
        f"CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, {BATCHES * SIZE}) g"
    )
    change = stage.change(CHANGE)
    for action, number, stop in actions:
        try:
            _act(stage, model, str(change.path), action, number, stop)
        except (Refused, Interrupted) as error:
            assert _may_say_so(model, action, number, error), (action, number, error)
        except BackoutError as error:
            raise AssertionError(f"{action} {number}: {error}") from error
        else:
            _note(model, action, number)
        stage.log()
        assert model.rows() == stage.rows("SELECT id, v FROM t ORDER BY id")
    if model.committed and len(model.undone) < model.committed:
        stage.undo("test-1")
        assert [(row, 0) for row in range(1, BATCHES * SIZE + 1)] == stage.rows("SELECT id, v FROM t ORDER BY id")


def _act(stage: Stage, model: Model, change: str, action: str, number: int, stop: str) -> None:
    project = stage.project
    if action == "go":
        target = model.committed + number

        def watch(said: str) -> None:
            if said.startswith(f"batch {target}:"):
                _stop(stage, stop)

        if model.begun:
            project.resume("1", "test", ask=yes, progress=watch)
        else:
            project.run(project.change(change), "test", ask=yes, progress=watch)
    elif not model.begun:
        raise Refused("model", "there is no run yet")
    elif action == "undo":
        if number > model.committed:
            raise Refused("model", "there is no such batch")
        project.undo("test-1", "test", batch=number, ask=yes)
    elif action == "undo all":
        project.undo("test-1", "test", ask=yes)
    else:
        project.cancel("1", "test")


def _stop(stage: Stage, how: str) -> None:
    if how == "pause":
        stage.project.pause("1", "test")
    elif how == "signal":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        for pid in backends(stage.database, "backout: run"):
            stage.database.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def _note(model: Model, action: str, number: int) -> None:
    """It came through."""
    if action == "go":
        assert model.may_go
        model.begun, model.committed, model.over = True, BATCHES, True
    elif action == "undo":
        assert number not in model.undone
        model.undone.add(number)
    elif action == "undo all":
        model.undone |= set(range(1, model.committed + 1))
    else:
        assert not model.over
        model.over = True


def _may_say_so(model: Model, action: str, number: int, error: BackoutError) -> bool:
    """Whether the model knows why it was refused or stopped; notes how far a stopped run came."""
    if action == "go" and isinstance(error, Interrupted):
        model.begun, model.committed = True, min(model.committed + number, BATCHES)
        return error.state == f"committed up to batch {model.committed}"
    if action == "go":
        return not model.may_go
    if not model.begun:
        return True
    if action == "undo":
        return number > model.committed or number in model.undone
    if action == "undo all":
        return len(model.undone) == model.committed
    return model.over
