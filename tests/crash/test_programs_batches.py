"""A program in batches whose run dies at any instant, again and again: each row is changed once, and the undo is exact."""

from __future__ import annotations

import sys

import pytest

from crash.test_batches import ELSEWHERE, rounds, scene, until_a_hundred_have_fallen
from crash.test_crash import Scene
from properties.driving import SEED

__all__ = ["scene"]

PROGRAM = f"""# /// change
# title = "A backfill by a program"
# run = ["{sys.executable}", "{{file}}"]
# batch = {{table = "app.referral", by = "id", size = 25}}
# ///
import os, psycopg
connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
while (batch := connection.execute("SELECT * FROM backout.next_batch()").fetchone()) is not None:
    for (number,) in connection.execute("SELECT id FROM app.referral WHERE " + batch[3]).fetchall():
        connection.execute("UPDATE app.referral SET visits = visits + 1 WHERE id = %s", [number])
"""


@pytest.mark.parametrize("blow", ["kill", "kill sent", "end the backend", "kill the backend", "kill the server"])
def test_a_program_in_batches_survives_whatever_kills_it(scene: Scene, blow: str) -> None:
    (scene.place / "program.py").write_text(PROGRAM)
    rounds(scene, ELSEWHERE, blow, 1, SEED, change="program")


@pytest.mark.hunt
def test_a_hundred_kills_of_programs_lose_nothing(scene: Scene) -> None:
    (scene.place / "program.py").write_text(PROGRAM)
    until_a_hundred_have_fallen(scene, ("program",))
