"""The images of one batch: the two-snapshot diff of `capture.py`, limited to the batch's keys, appended to the rescue.

What is read is found by the key's index, never by a scan of the table. Three ways, the fastest first; each is taken only
when the counts prove that it saw all, and all are in the run's own transaction, so that images and change are one atom:

1. *The cursor.* Opened before the statement and read behind it, it still sees the rows as they were (a cursor's snapshot is
   that of its DECLARE: manual, DECLARE, "Notes" on insensitive cursors), with the ids that the statement has put on them
   meanwhile. All of a batch comes as one array, so that no row leaves the server (measured on 18.4: 1.4 µs a row, against
   9 µs through a pipe). A row that somebody else changed between its snapshot and the statement's is missing: the count
   tells.
2. *The pipe.* A second session still sees the rows as they were until COMMIT; its rows go through a pipe.
3. *The general form* of `capture.py`.

A row outside of the batch's keys is not looked at. So the counts must explain *every* write here: as many pre-images as
counted updates and deletes, as many post-images as counted inserts and updates. Each image takes at least one counted
write; where both numbers are equal, each write left exactly its images, and all of them lie within the bounds.

Not for: judging them (`recovery/proof.py`). Of a batch nothing less than an exact proof is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from backout.engines.postgres.batch_past import Past
from backout.engines.postgres.capture import Marks
from backout.engines.postgres.images import XID_SPAN, batch_column, columns_named, created, ours, stored
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.session import Session, pipe
from backout.engines.values import Column, Counts, Table, TableName
from backout.errors import DatabaseFailed

_CURSOR = quoted("backout_before")
_COUNT = "backout.images"  # a setting of the transaction, in which a DO block can say how many rows it wrote


@dataclass(frozen=True)
class Images:
    """Where the images of a batch are read, and where they go."""

    table: Table
    after_columns: tuple[str, ...]
    within: str  # SQL: the rows `t` whose key lies within the bounds
    number: int
    before: TableName
    after: TableName

    @property
    def doing(self) -> str:
        """What goes on, for an error's text."""
        return f'read the images of table "{self.table.name}"'

    @property
    def kept_after(self) -> tuple[Column, ...]:
        """The columns of a post-image."""
        return columns_named(self.table, (*self.table.key, *self.after_columns))

    def make(self) -> str:
        """The statements that make both rescue tables."""
        batch, source = quoted(batch_column(self.table)), f"ONLY {qualified(self.table.name)} AS t"
        return "; ".join(
            f"{created(place)} AS SELECT NULL::integer AS {batch}, "
            f"{comma(f'{stored(one, chr(116))} AS {quoted(one.name)}' for one in columns)} FROM {source} WITH NO DATA"
            for place, columns in ((self.before, self.table.restorable), (self.after, self.kept_after))
        )

    @property
    def source(self) -> str:
        """The rows `t` of the batch."""
        return f"FROM ONLY {qualified(self.table.name)} AS t WHERE {self.within}"

    def cells(self, columns: tuple[Column, ...]) -> str:
        """The columns, as a rescue table keeps them."""
        return comma(stored(one, "t") for one in columns)

    def select(self, columns: tuple[Column, ...], condition: str) -> str:
        """The images of the rows for which the condition holds, as rows of a rescue table."""
        return f"SELECT {self.number}::integer, {self.cells(columns)} {self.source} AND ({condition})"

    def cursor(self) -> str:
        """Opened before the statement: the pre-images of what this transaction will have replaced, as one array."""
        row = f"ROW({self.number}::integer, {self.cells(self.table.restorable)})::{qualified(self.before)}"
        rows = f"{self.source} AND t.xmax = (SELECT pg_catalog.pg_current_xact_id()::xid)"
        return f"DECLARE {_CURSOR} NO SCROLL CURSOR WITHOUT HOLD FOR SELECT pg_catalog.array_agg({row}) {rows}"


def capture_batch(
    main: Session,
    past: Past,
    images: Images,
    counted: Counts,
    marks: Marks,
    next_xid: Callable[[], int],
    *,
    cursor: bool,
) -> tuple[int, int]:
    """Append both images to the rescue; how many of each there are. The caller judges whether they are all.

    `cursor`: `Images.cursor` was declared before the statement.
    """
    wanted = counted.replaced, counted.made
    if cursor:
        if _by_cursor(main, images, marks) == wanted:
            return wanted
        main.run("ROLLBACK TO SAVEPOINT backout_images")
    with past.look(images.table) as aux:
        main.run("SAVEPOINT backout_images")
        before, after, exact = _quick(main, aux, images, marks, wanted[1])
    if exact and (before, after) == wanted:
        return wanted
    main.run("ROLLBACK TO SAVEPOINT backout_images")
    with past.look(images.table, afresh=True) as aux:
        return _general(main, aux, images, replace(marks, next_xid=next_xid()))


def _by_cursor(main: Session, images: Images, marks: Marks) -> tuple[int, int] | None:
    """(pre-images, post-images); None where it did not come out. Exact for the reasons in `capture.py`, `_quick`.

    A row that main still sees with our id as xmax was only locked, and would be taken for a replaced one: for that row
    the number of the batch is divided by 0, and all of it fails.
    """
    ours = f"'{marks.xid % XID_SPAN}'::xid"
    cells = f"{images.number} / (t.xmin = {ours})::integer, {images.cells(images.kept_after)}"
    rows = f"SELECT {cells} {images.source} AND (t.xmin = {ours} OR t.xmax = {ours})"
    before, source = qualified(images.before), "pg_catalog.unnest(images)"
    block = (
        f"DECLARE opened refcursor := 'backout_before'; images {before}[]; many bigint; BEGIN FETCH opened INTO images; "
        f"INSERT INTO {before} SELECT * FROM {source}; GET DIAGNOSTICS many = ROW_COUNT; "
        f"PERFORM pg_catalog.set_config('{_COUNT}', many::text, true); END"
    )
    try:
        answers = main.run(
            f"SAVEPOINT backout_images; INSERT INTO {qualified(images.after)} {rows}; "
            f"DO LANGUAGE plpgsql {literal(block)}; CLOSE {_CURSOR}; "
            f"SELECT pg_catalog.current_setting('{_COUNT}')::bigint",
            doing=images.doing,
        ).following  # fmt: skip
    except (
        DatabaseFailed
    ):  # only locked; larger than the server's memory for one value; no plpgsql: the pipe does without
        return None
    return int(answers[-1].rows[0][0]), answers[0].affected


def _quick(main: Session, aux: Session, images: Images, marks: Marks, wanted_after: int) -> tuple[int, int, bool]:
    """(pre-images, post-images, whether the counts may be believed) by the ids that we know; see `capture.py`, `_quick`."""
    ids = " OR ".join(f"{{0}} = '{one}'::xid" for one in (marks.xid % XID_SPAN, *marks.savepoints))
    made, gone = ids.format("t.xmin"), ids.format("t.xmax")
    after = _post_images(main, images, made)
    if after != wanted_after or main.value(_still_there(images, gone)):
        return 0, after, False
    return _pre_images(aux, main, images, gone), after, True


def _post_images(main: Session, images: Images, condition: str) -> int:
    text = f"INSERT INTO {qualified(images.after)} {images.select(images.kept_after, condition)}"
    return main.run(text, doing=images.doing).affected


def _pre_images(aux: Session, main: Session, images: Images, condition: str) -> int:
    """From the session that sees them into the run's own; how many came."""
    rows = images.select(images.table.restorable, condition)
    return pipe(aux, f"COPY ({rows}) TO STDOUT", main, f"COPY {qualified(images.before)} FROM STDIN")


def _still_there(images: Images, gone: str) -> str:
    """Has the run's own session a row that is marked with an id of ours? Then it was only locked."""
    return f"SELECT EXISTS (SELECT FROM ONLY {qualified(images.table.name)} AS t WHERE {images.within} AND ({gone}))"


def _general(main: Session, aux: Session, images: Images, marks: Marks) -> tuple[int, int]:
    """Exact under savepoints, shared locks and concurrent writers, in four readings; see `capture.py`, `_general`."""
    source = f"ONLY {qualified(images.table.name)} AS t"
    raw = marks.xid % XID_SPAN
    maybe_ours = (
        f"t.xmax <> '0'::xid AND (pg_catalog.age(t.xmax) BETWEEN 0 AND pg_catalog.age('{raw}'::xid) OR "
        f"pg_catalog.mxid_age(t.xmax) BETWEEN 0 AND pg_catalog.mxid_age('{marks.multixact % XID_SPAN}'::xid))"
    )
    for session in (aux, main):
        session.run("DROP TABLE IF EXISTS pg_temp.backout_candidate, pg_temp.backout_not_ours")
    aux.run(
        "CREATE TEMP TABLE backout_candidate ON COMMIT DROP AS "
        f"SELECT t.ctid AS place, t.xmin AS made_by FROM {source} WHERE {images.within} AND {maybe_ours}"
    )
    aux.run("CREATE TEMP TABLE backout_not_ours (place tid) ON COMMIT DROP")
    main.run("CREATE TEMP TABLE backout_candidate (place tid, made_by xid) ON COMMIT DROP")
    pipe(aux, "COPY pg_temp.backout_candidate TO STDOUT", main, "COPY pg_temp.backout_candidate FROM STDIN")
    not_ours = f"SELECT c.place FROM pg_temp.backout_candidate c JOIN {source} ON t.ctid = c.place"
    pipe(main, f"COPY ({not_ours}) TO STDOUT", aux, "COPY pg_temp.backout_not_ours FROM STDIN")
    before = _pre_images(
        aux, main, images,
        "EXISTS (SELECT FROM pg_temp.backout_candidate c WHERE c.place = t.ctid AND c.made_by = t.xmin) "
        "AND NOT EXISTS (SELECT FROM pg_temp.backout_not_ours n WHERE n.place = t.ctid)",
    )  # fmt: skip
    return before, _post_images(main, images, ours("t", marks.xid, marks.next_xid))


def differing(main: Session, table: Table, before: TableName, after: TableName, batch: int) -> int:
    """Rows in which a batch's images differ, where whole rows were kept: as text, as multisets."""
    sides = []
    for place, alias in ((before, "b"), (after, "a")):
        cells = comma(f"{alias}.{quoted(column.name)}" for column in table.restorable)
        number = f"{alias}.{quoted(batch_column(table))} = {batch}"
        sides.append(f"SELECT ROW({cells})::text FROM {qualified(place)} {alias} WHERE {number}")
    old, new = sides
    both = f"({old} EXCEPT ALL {new}) UNION ALL ({new} EXCEPT ALL {old})"
    return int(main.value(f"SELECT count(*) FROM ({both}) d"))
