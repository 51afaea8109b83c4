"""Does the run's session wait for its own companion? Looked at while a statement is running.

aux holds ACCESS SHARE on the tables that the change names. Only a lock that excludes readers waits for that: DDL,
TRUNCATE or LOCK TABLE in a function of the change. When lock_timeout has ended the wait nothing tells any more which lock
it was, so somebody has to look meanwhile.

Invariant: nothing is looked at in a statement that is faster than `every_s`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from backout.engines.postgres.queries import query
from backout.engines.postgres.session import Session
from backout.engines.values import TableName
from backout.errors import BackoutError


@contextmanager
def watching(aux: Session, waiting: Session, every_s: float) -> Iterator[list[tuple[TableName, str]]]:
    """While the block runs a statement of `waiting`: the list fills with (table, mode) of the locks it waits for aux."""
    seen: list[tuple[TableName, str]] = []
    done = Event()

    def look() -> None:
        while not done.wait(every_s):
            try:
                rows = aux.run(query("waits_for_us"), [waiting.pid, aux.pid]).rows
            except BackoutError:
                return  # what happened to the server is told by the statement itself
            seen.extend((TableName(schema, name), mode) for schema, name, mode in rows)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
