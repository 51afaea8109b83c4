"""The general capture: what the run's session sees of a table, against what another session still sees.

Until COMMIT InnoDB keeps the old version of every row that the transaction wrote: `aux`, in autocommit under READ
COMMITTED, sees all rows as they were, `main` sees them as they are. Per table:

1. Both sum up a hash of each row, per bucket of keys. Buckets with equal sums have no difference.
2. `aux` copies its rows of the other buckets into a stage table, committed at once.
3. `main` joins: rows of the stage that it does not see, or sees otherwise, are pre-images; its own that the stage does
   not have, or has otherwise, are post-images. Both are written in the run's own transaction: they are there exactly if
   the change is.
4. `main` sums up again. Where a sum has moved since step 1, somebody else has committed in between: all again. Of rows
   that others wrote at any time, the two sessions agree before or after; rows of ours are locked, and stay different.
   Without a key rows are told apart by their values alone: buckets in which others have committed while both sessions
   read count as different, too, and only the comparison decides.

Nothing is rewritten, and it does not matter who wrote: statement, trigger, cascade or routine.
Source: manual, "InnoDB Undo Log", "Consistent Nonlocking Reads"; `INSERT … SELECT` under READ COMMITTED reads without
locks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backout.engines.mariadb import images
from backout.engines.mariadb.images import column_list, is_there, key_match, rescue_name, row_hash, row_text, same
from backout.engines.mariadb.names import comma, qualified
from backout.engines.values import CapturedTable, Table, TableName
from backout.errors import Busy, ProofFailed

if TYPE_CHECKING:
    from backout.engines.mariadb.session import Session

_ROWS_PER_BUCKET = 500
_MOST_BUCKETS = 4096
_TRIES = 8

Sums = dict[int, tuple[int, str]]


@dataclass(frozen=True)
class Pair:
    """The sessions of a run and where its rescue goes."""

    main: Session
    aux: Session
    control: Session
    rescue: str


@dataclass(frozen=True)
class Target:
    """A table to look at; `rows` is the server's estimate, `place` its number in the run."""

    table: Table
    rows: int
    place: int

    @property
    def buckets(self) -> int:
        """How finely its rows are told apart."""
        return max(1, min(_MOST_BUCKETS, self.rows // _ROWS_PER_BUCKET))

    def bucket(self, alias: str) -> str:
        """SQL for the bucket of a row. By the key's value where it is a number: the same for all spellings of a key."""
        table = self.table
        numbers = [c for c in images.columns_named(table, table.key) if c.type.lower().startswith(_WHOLE)]
        if not table.key:
            return f"CRC32({row_text(table.restorable, alias)}) % {self.buckets}"
        if not numbers:  # a text key can be spelled in several ways: all in one bucket
            return "0"
        return f"CRC32({row_text(numbers, alias)}) % {self.buckets}"


_WHOLE = ("tinyint", "smallint", "mediumint", "int", "bigint", "date", "uuid", "binary", "varbinary", "decimal")


def capture_table(pair: Pair, run: int, target: Target) -> CapturedTable | None:
    """Put the images of a table into rescue tables; None where the run has not changed it, on balance."""
    stage = _Stage(pair, run, target)
    for _ in range(_TRIES):
        mine, theirs = _both(pair, target)
        differing = _differing(mine, theirs)
        unsure = _unsure(pair, target, mine, theirs)
        if not differing | unsure:
            stage.clear()
            return None
        if unsure:
            mine = _sums(pair.main, target)  # as of now: what they have committed by then is in the stage as well
        before, after = stage.compare(sorted(differing | unsure))
        again = _sums(pair.main, target)
        stable = not (differing | unsure) & _differing(mine, again)
        if stable and (before or after):
            return stage.captured(before, after)
        stage.clear()
        # No image at all: a difference of others that is gone by now, or one that the comparison cannot see. Look again.
        if stable and not differing:
            return None
    raise Busy(
        f"table {target.table.name} is written so often that its rows before and after could not be told apart",
        state="rolled back",
        hint="run it again when others write less to that table",
    )


def _differing(left: Sums, right: Sums) -> set[int]:
    return {bucket for bucket in left.keys() | right.keys() if left.get(bucket) != right.get(bucket)}


def _unsure(pair: Pair, target: Target, mine: Sums, theirs: Sums) -> set[int]:
    """Buckets whose sums prove nothing where they are equal: others have committed there between the two readings.

    Without a key their row can stand for one of ours: we delete one, they insert its like. A row with a key is locked.
    Which session has read first is not known: so both read again, and whatever was committed in between moves one of them.
    """
    if target.table.key:
        return set()
    mine_again, theirs_again = _both(pair, target)
    return _differing(mine, mine_again) | _differing(theirs, theirs_again)


def _both(pair: Pair, target: Target) -> tuple[Sums, Sums]:
    """Of both sessions, at the same time."""
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(_sums, pair.aux, target)
        mine = _sums(pair.main, target)
        return mine, other.result()


def _sums(session: Session, target: Target) -> Sums:
    digest = f"CAST(CONV(LEFT({row_hash(target.table.restorable, 't')}, 15), 16, 10) AS UNSIGNED)"
    rows = session.run(
        # By position: a name after GROUP BY means the table's column, where it has one of that name, not the alias.
        f"SELECT {target.bucket('t')}, COUNT(*), SUM({digest}) FROM {qualified(target.table.name)} t GROUP BY 1",
        doing=f"compare the rows of {target.table.name}",
    ).rows
    sums = {int(bucket): (int(count), str(total)) for bucket, count, total in rows}
    if len(sums) != len(rows):
        raise ProofFailed(f"the rows of {target.table.name} could not be compared: a bucket came twice")
    return sums


class _Stage:
    """The three tables that a comparison needs; made when first needed."""

    def __init__(self, pair: Pair, run: int, target: Target) -> None:
        self._pair, self._target = pair, target
        self._names = {part: rescue_name(run, target.place, part) for part in ("before", "after", "stage")}
        self._made = False

    def _table(self, part: str) -> str:
        return qualified(TableName(self._pair.rescue, self._names[part]))

    def _make(self) -> None:
        for name in self._names.values():
            table = self._target.table
            images.create_rescue(self._pair.control, self._pair.rescue, table, name, table.restorable)
        self._made = True

    def clear(self) -> None:
        """Empty again."""
        if self._made:
            for part in ("before", "after"):
                self._pair.main.run(f"DELETE FROM {self._table(part)}")
            self._pair.aux.run(f"DELETE FROM {self._table('stage')}")

    def compare(self, differing: list[int]) -> tuple[int, int]:
        """Fill all three; returns the numbers of pre- and post-images."""
        if not self._made:
            self._make()
        target, pair = self._target, self._pair
        columns = target.table.restorable
        names = column_list(columns)
        limited = f"{target.bucket('t')} IN ({comma(map(str, differing))})"
        if len(differing) == target.buckets:
            limited = "TRUE"
        source = qualified(target.table.name)
        pair.aux.run(
            f"INSERT INTO {self._table('stage')} ({names}) SELECT {column_list(columns, 't')} FROM {source} t WHERE {limited}",
            doing=f"read the rows of {target.table.name} as they were",
        )
        doing = f"read the changed rows of {target.table.name}"
        if not target.table.key:
            return self._compare_keyless(limited, doing)
        key, stage = target.table.key, self._table("stage")

        def differs(other: str) -> str:
            return f"(NOT {is_there(other, key[0])} OR NOT ({same(columns, 's', 't')}))"

        before = pair.main.write(
            f"INSERT INTO {self._table('before')} ({names}) SELECT {column_list(columns, 's')} FROM {stage} s "
            f"LEFT JOIN {source} t ON {key_match(key, 't', 's')} WHERE {differs('t')}",
            doing=doing,
        )
        after = pair.main.write(
            f"INSERT INTO {self._table('after')} ({names}) SELECT {column_list(columns, 't')} FROM {source} t "
            f"LEFT JOIN {stage} s ON {key_match(key, 's', 't')} WHERE {limited} AND {differs('s')}",
            doing=doing,
        )
        return before, after

    def _compare_keyless(self, limited: str, doing: str) -> tuple[int, int]:
        """As multisets: the n-th row of a value is the n-th row of that value."""
        columns = self._target.table.restorable
        stage, source = self._table("stage"), qualified(self._target.table.name)
        taken = {column.name.lower() for column in self._target.table.columns}
        digest = next(name for name in ("h", "h_", "h__", "backout_hash") if name not in taken)
        rank = next(name for name in ("rn", "rn_", "rn__", "backout_rank") if name not in taken)

        def ranked(table: str, where: str) -> str:
            hashed = row_hash(columns, "t")
            return (
                f"(SELECT {column_list(columns, 't')}, {hashed} AS {digest}, "
                f"ROW_NUMBER() OVER (PARTITION BY {hashed} ORDER BY NULL) AS {rank} FROM {table} t WHERE {where})"
            )

        mine, theirs = ranked(source, limited), ranked(stage, "TRUE")
        counts = []
        for part, left, right in (("before", theirs, mine), ("after", mine, theirs)):
            counts.append(
                self._pair.main.write(
                    f"INSERT INTO {self._table(part)} ({column_list(columns)}) SELECT {column_list(columns, 'l')} "
                    f"FROM {left} l LEFT JOIN {right} r ON r.{digest} = l.{digest} AND r.{rank} = l.{rank} "
                    f"WHERE r.{digest} IS NULL",
                    doing=doing,
                )
            )
        return counts[0], counts[1]

    def captured(self, before: int, after: int) -> CapturedTable:
        """What is said of the table."""
        table = self._target.table
        both = 0
        if table.key and before and after:
            both = int(
                self._pair.main.value(
                    f"SELECT COUNT(*) FROM {self._table('before')} b JOIN {self._table('after')} a "
                    f"ON {key_match(table.key, 'a', 'b')}"
                )
            )
        return CapturedTable(
            table,
            None,
            before,
            after,
            self._changed() if both and both == after else tuple(column.name for column in table.restorable),
            "two sessions",
            self._names["before"] if before else None,
            self._names["after"] if after else None,
            both_rows=both,
        )

    def _changed(self) -> tuple[str, ...]:
        """Of rows that were altered only: the columns that differ in any of them."""
        table = self._target.table
        differ = comma(f"MAX(NOT ({same([column], 'b', 'a')}))" for column in table.restorable)
        found = self._pair.main.one(
            f"SELECT {differ} FROM {self._table('before')} b JOIN {self._table('after')} a "
            f"ON {key_match(table.key, 'a', 'b')}"
        )
        return tuple(column.name for column, differs in zip(table.restorable, found, strict=True) if differs)
