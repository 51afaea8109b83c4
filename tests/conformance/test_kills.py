"""Whatever dies, and whenever: afterwards the journal and the data tell the same story, and nothing is left over.

`make hunt` hits every boundary of a run, and random instants. What a server's own death leaves is tested per engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from backout.errors import BackoutError
from conformance.stage import Stage
from conformance.striking import Scene, each, every, set_up, some, strike
from properties.driving import SEED, SHORTER, announce

pytestmark = pytest.mark.newest  # what dies is our process, and each round takes some seconds


@pytest.fixture
def scene(stage: Stage) -> Iterator[Scene]:
    """Some hundred rows with a cascade and an audit trigger."""
    with set_up(stage, Scene) as found:
        yield found


@pytest.mark.parametrize("action", ["run", "ghost", "undo"])
def test_a_kill_at_a_boundary_leaves_journal_and_data_in_agreement(scene: Scene, action: str) -> None:
    """A run that dies is committed with its rescue, or rolled back without a trace."""
    each(scene, action, "kill", some)


@pytest.mark.needs("is_a_server")
@pytest.mark.parametrize("action", ["run", "undo"])
def test_a_kill_while_a_word_is_on_its_way_leaves_journal_and_data_in_agreement(scene: Scene, action: str) -> None:
    """Nobody hears the answer, least of all that to COMMIT."""
    each(scene, action, "kill sent", some)


@pytest.mark.parametrize(("action", "blow"), [("run", "interrupt"), ("undo", "interrupt"), ("run", "terminate")])
def test_a_run_that_is_told_to_stop_says_so_and_leaves_nothing(scene: Scene, action: str, blow: str) -> None:
    """Ctrl-C or SIGTERM: exit status 8 and nothing changed, or the change is committed and the status is 0."""
    each(scene, action, blow, some)


def test_a_kill_at_a_random_instant_leaves_journal_and_data_in_agreement(scene: Scene) -> None:
    at_random(scene, 6 // SHORTER, SEED)


def at_random(scene: Scene, rounds: int, seed: int) -> None:
    chance = Random(seed)
    for action in ("run", "ghost", "undo"):
        seconds = float(strike(scene, replace(scene.order, action=action))["seconds"])
        for _ in range(rounds // 3 or 1):
            after = chance.uniform(0.001, seconds * 1.2)
            try:
                strike(scene, replace(scene.order, action=action, after_s=after))
            except (AssertionError, BackoutError):
                print(f"{action}: killed after {after} s; HUNT_SEED={seed}")
                raise


@pytest.mark.hunt
@pytest.mark.parametrize("action", ["run", "ghost", "undo"])
@pytest.mark.parametrize("blow", ["kill", "interrupt", "terminate"])
def test_every_boundary_hunted(scene: Scene, action: str, blow: str) -> None:
    """Each word that a run says to the database."""
    each(scene, action, blow, every)


@pytest.mark.hunt
@pytest.mark.needs("is_a_server")
@pytest.mark.parametrize("action", ["run", "ghost", "undo"])
def test_every_word_on_its_way_hunted(scene: Scene, action: str) -> None:
    each(scene, action, "kill sent", every)


@pytest.mark.hunt
def test_random_instants_hunted(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Three hundred of them; the seed is printed."""
    announce(capsys)
    at_random(scene, 300, SEED)
