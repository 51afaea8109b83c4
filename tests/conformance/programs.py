"""Random schemas, data and programs: text from choices, with what a model must know of each table.

A program's statements may fail for reasons of their own (a key taken, a parent missing): `carry_out` finds those that
do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from backout.engines.values import Capabilities
from conformance.grammar import Grammar, Key
from conformance.target import Dialect, Target

PARTS = ["'a'", "'b'", "'c'"]
COUNTS = ["1", "2", "3", "4", "5", "NULL", "NULL"]


@dataclass(frozen=True)
class Language:
    """All that a program is written with on one engine."""

    dialect: Dialect
    grammar: Grammar
    can: Capabilities

    @property
    def actions(self) -> list[str]:
        return [
            "NO ACTION",
            "RESTRICT",
            "CASCADE",
            "SET NULL",
            *(["SET DEFAULT"] if self.can.set_default_actions else []),
        ]


@dataclass
class Made:
    """A table: its definition, and what statements and the model must know."""

    name: str
    kind: Key
    columns: dict[str, Sequence[str]]  # writable columns -> literals
    ddl: list[str] = field(default_factory=list)
    key: tuple[str, ...] = ()  # what identifies a row for certain; empty: nothing
    leaves: dict[str, tuple[str, ...]] = field(default_factory=dict)  # tables that hold the rows -> their keys
    constrained: bool = False  # foreign keys on either side, unique or other constraints beside the key
    partitioned: bool = False


@dataclass(frozen=True)
class Program:
    """All of one round, as text."""

    schema: tuple[str, ...]
    tables: tuple[Made, ...]
    fill: tuple[str, ...]
    steps: tuple[str, ...]
    foreign: tuple[str, ...]
    isolation: str
    append_only: bool
    bookkeeping: bool

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        return {"audit": ("id",)} | {leaf: key for table in self.tables for leaf, key in table.leaves.items()}

    @property
    def constrained(self) -> set[str]:
        return {leaf for table in self.tables if table.constrained for leaf in table.leaves}


@st.composite
def table(draw: st.DrawFn, name: str, earlier: Sequence[Made], language: Language) -> Made:
    """One table, with its keys, columns, foreign keys to earlier tables or itself, children and triggers."""
    grammar, can = language.grammar, language.can
    kind = grammar.keys[draw(st.sampled_from([*grammar.keys, *grammar.usual]))]
    shape = draw(st.sampled_from(["plain", "plain", "plain", "partitioned", "inherited"]))
    # The leaves are written as PostgreSQL does it, which has inheritance as well; others' partitions: see the cases.
    if shape != "plain" and not (can.partitions and can.inheritance):
        shape = "plain"
    if not kind.identifies and shape == "plain" and not can.keyless_tables:
        kind = grammar.keys[grammar.usual[0]]
    if shape == "partitioned" and (kind.declared or "UNIQUE" in kind.more):  # a key has to have the partitions' column
        kind = grammar.keys["composite"]
    made = Made(
        name, kind, {"id": kind.literals}, key=tuple(column for column, _ in kind.columns) if kind.identifies else ()
    )
    lines = [f"id {kind.columns[0][1]} {kind.more}"]
    if len(kind.columns) > 1 or shape == "partitioned":
        lines.append("part varchar(20) NOT NULL" if len(kind.columns) > 1 else "part varchar(20)")
        made.columns["part"] = PARTS
    for number, chosen in enumerate(draw(st.lists(st.sampled_from([*language.dialect.types]), min_size=1, max_size=4))):
        lines.append(f"{language.dialect.name(f'c {number}')} {chosen}")
        made.columns[f"c {number}"] = language.dialect.types[chosen]
    _extras(draw, made, lines, language, partitioned=shape == "partitioned")
    constraints = [line for line in kind.lines if line.startswith("PRIMARY")]
    lines += [line for line in kind.lines if not line.startswith("PRIMARY")]
    if kind.declared and not kind.lines:
        constraints.append(f"PRIMARY KEY ({', '.join(column for column, _ in kind.columns)})")
    for number, parent in enumerate(draw(st.lists(st.sampled_from([*earlier, made]), max_size=2))):
        constraints += _foreign_key(draw, made, parent, lines, number, language)
    options = " PARTITION BY LIST (part)" if shape == "partitioned" else ""
    if kind.identifies and kind.declared and not options and not kind.numbered:
        options = draw(st.sampled_from(grammar.table_options))
    made.ddl.insert(0, f"CREATE TABLE {name} ({', '.join([*lines, *constraints])}){options}")
    _leaves(draw, made, shape)
    _triggers(draw, made, grammar)
    return made


def _extras(draw: st.DrawFn, made: Made, lines: list[str], language: Language, *, partitioned: bool) -> None:
    if draw(st.booleans()) and language.grammar.doubled:
        lines += ["n INTEGER", f"doubled {draw(st.sampled_from(language.grammar.doubled))}"]
        made.columns["n"] = ["0", "1", "-5", "7", "NULL"]
    if draw(st.booleans()) and not partitioned:
        lines.append("u INTEGER UNIQUE" + draw(st.sampled_from(language.grammar.unique)))
        made.columns["u"] = COUNTS
        made.constrained = True
    if draw(st.booleans()):
        lines.append(f"updated_at {language.dialect.moment} DEFAULT '2020-01-01'")
    if draw(st.booleans()):
        lines.append("version INTEGER DEFAULT 0")
        made.columns["version"] = ["0", "3"]


def _foreign_key(
    draw: st.DrawFn, made: Made, parent: Made, lines: list[str], number: int, language: Language
) -> list[str]:
    if not parent.kind.referable or (parent is made and made.partitioned):
        return []
    names = []
    for column, kind in parent.kind.columns:
        name = f"r{number}_{column}"
        names.append(name)
        default = draw(st.sampled_from(["", "", f"DEFAULT {parent.columns[column][0]}"]))
        lines.append(f"{name} {kind} {default}")
        made.columns[name] = [*parent.columns[column], "NULL"]
    on_delete, on_update = draw(st.sampled_from(language.actions)), draw(st.sampled_from(language.actions))
    timings = ["", "", "DEFERRABLE INITIALLY DEFERRED", "DEFERRABLE"] if language.can.deferrable_foreign_keys else [""]
    made.constrained = parent.constrained = True
    return [
        f"FOREIGN KEY ({', '.join(names)}) REFERENCES {parent.name} "
        f"({', '.join(column for column, _ in parent.kind.columns)}) "
        f"ON DELETE {on_delete} ON UPDATE {on_update} {draw(st.sampled_from(timings))}"
    ]


def _leaves(draw: st.DrawFn, made: Made, shape: str) -> None:
    if shape == "partitioned":
        made.partitioned = True
        for leaf, values in (("a", "FOR VALUES IN ('a')"), ("b", "FOR VALUES IN ('b')"), ("rest", "DEFAULT")):
            made.ddl.append(f"CREATE TABLE {made.name}_{leaf} PARTITION OF {made.name} {values}")
            made.leaves[f"{made.name}_{leaf}"] = made.key
        return
    made.leaves[made.name] = made.key
    if shape == "inherited":
        child, keyed = f"{made.name}_child", draw(st.booleans()) and bool(made.key)
        made.ddl.append(f"CREATE TABLE {child} (more text) INHERITS ({made.name})")
        if keyed:
            made.ddl.append(f"ALTER TABLE {child} ADD PRIMARY KEY ({', '.join(made.key)})")
        made.leaves[child] = made.key if keyed else ()


def _triggers(draw: st.DrawFn, made: Made, grammar: Grammar) -> None:
    definition = made.ddl[0]
    for name in draw(st.lists(st.sampled_from([*grammar.triggers]), unique=True, max_size=3)):
        fits = {
            "stamp": "updated_at" in definition,
            "version": "version INTEGER" in definition,
            "keep": "FOREIGN KEY" not in definition,  # keeping a row from a cascade would leave it without its parent
        }
        if not fits.get(name, True):
            continue
        for table_name in made.leaves if not made.partitioned else [made.name]:
            made.ddl += [text.format(table=table_name, audit="audit") for text in grammar.triggers[name]]
            state = draw(st.sampled_from(grammar.trigger_states))
            if state:
                made.ddl.append(state.format(table=table_name, trigger=f"{name}_{table_name}"))


# -- statements --------------------------------------------------------------------------------------------------------


def _into(draw: st.DrawFn, made: Made, language: Language) -> str:
    """What follows INSERT INTO."""
    names = [name for name in made.columns if name in {"id", "part"} or draw(st.booleans())]
    overriding = ""
    if made.kind.numbered:
        if draw(st.booleans()) and len(names) > 1:
            names.remove("id")
        else:
            overriding = made.kind.overriding
    rows = [
        f"({', '.join(draw(st.sampled_from(made.columns[name])) for name in names)})"
        for _ in range(draw(st.integers(1, 2)))
    ]
    quoted = ", ".join(map(language.dialect.name, names))
    return f"{made.name} ({quoted}){overriding} VALUES {', '.join(rows)}"


def _where(draw: st.DrawFn, made: Made, grammar: Grammar, column: str) -> str:
    key = draw(st.sampled_from(made.columns["id"]))
    third = grammar.third.format(column=column, rest=draw(st.integers(0, 2)))
    return draw(st.sampled_from(["1 = 1", f"{column} = {key}", f"{column} = {key}", f"{column} <> {key}", third]))


def _sets(draw: st.DrawFn, made: Made, language: Language, table_name: str) -> str:
    names = [name for name in made.columns if name != "id"]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    found = []
    for name in chosen:
        column = language.dialect.name(name)
        target = language.grammar.set_target.format(table=table_name, column=column)
        values = [*made.columns[name], *language.grammar.assignable, f"{table_name}.{column}"]
        found.append(f"{target} = {draw(st.sampled_from(values))}")
    return ", ".join(found)


@st.composite
def statement(draw: st.DrawFn, tables: Sequence[Made], language: Language) -> str:
    """One statement that writes."""
    grammar, dialect = language.grammar, language.dialect
    made, other = draw(st.sampled_from(tables)), draw(st.sampled_from(tables))
    target = draw(st.sampled_from([made.name, made.name, *made.leaves]))  # sometimes straight into a leaf or a child
    key, column = draw(st.sampled_from(made.columns["id"])), f"{target}.id"
    into, where, sets = (
        _into(draw, made, language),
        _where(draw, made, grammar, column),
        _sets(draw, made, language, target),
    )
    joined = f"{grammar.text.format(column='o.id')} = {grammar.text.format(column=column)}"
    others = f"{other.name} AS o"
    choices = [
        f"INSERT INTO {into}",
        f"INSERT INTO {into}",
        dialect.ignore.format(into=into),
        f"UPDATE {target} SET {sets} WHERE {where}",
        f"UPDATE {target} SET {sets} WHERE {where}",
        dialect.update_from.format(table=target, sets=sets, other=others, where=joined),
        f"DELETE FROM {target} WHERE {where}",
        f"DELETE FROM {made.name} WHERE id = {key}",
        dialect.delete_using.format(table=target, other=others, where=f"{joined} AND {where}"),
        *(text.format(into=into, table=target, sets=sets, where=where) for text in grammar.more),
    ]
    choices += _of_keys(draw, made, language, key, into)
    if "part" in made.columns:
        choices += [f"UPDATE {made.name} SET part = {draw(st.sampled_from(PARTS))} WHERE id = {key}"] * 2
    if not made.kind.identifies:
        names = ", ".join(map(dialect.name, made.columns))
        choices.append(f"INSERT INTO {made.name} ({names}) SELECT {names} FROM {made.name} WHERE id = {key}")
    return draw(st.sampled_from(choices))


def _of_keys(draw: st.DrawFn, made: Made, language: Language, key: str, into: str) -> list[str]:
    """Statements that change keys, or meet one."""
    if made.kind.overriding:
        return []
    another = draw(st.sampled_from(made.columns["id"]))
    choices = [f"UPDATE {made.name} SET id = {another} WHERE id = {key}"]
    if language.can.writing_ctes:
        text = language.grammar.text.format(column="id")
        choices.append(
            f"WITH d AS (DELETE FROM {made.name} WHERE id = {key} RETURNING id) INSERT INTO {made.name} (id) "
            f"SELECT min({text})::{made.kind.columns[0][1]} FROM d HAVING count(*) > 0"
        )
    if made.key and not made.partitioned:
        column = language.dialect.name(draw(st.sampled_from([name for name in made.columns if name != "id"])))
        choices.append(f"INSERT INTO {into} {language.dialect.upsert.format(key=', '.join(made.key), column=column)}")
    if made.kind is language.grammar.keys["int"]:
        choices.append(f"UPDATE {made.name} SET id = id + 10 WHERE id <> {key}")
        if language.can.merge:
            choices.append(
                f"MERGE INTO {made.name} t USING (VALUES (1), (5), (8)) s (id) ON t.id = s.id WHEN MATCHED AND t.id < 3 "
                f"THEN DELETE WHEN MATCHED THEN UPDATE SET id = t.id + 20 WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)"
            )
    return choices


@st.composite
def programs(draw: st.DrawFn, language: Language, *, foreign: bool) -> Program:
    """A schema, its rows, a change, and with `foreign` what others do after it."""
    tables: list[Made] = []
    for number in range(draw(st.integers(2, 4))):
        tables.append(draw(table(f"t{number}", tables, language)))
    fill = tuple(
        f"INSERT INTO {_into(draw, made, language)}" for made in tables for _ in range(draw(st.integers(2, 7)))
    )
    fill += tuple(
        f"INSERT INTO {leaf} (id) VALUES ({draw(st.sampled_from(made.columns['id']))})"
        for made in tables if not made.partitioned for leaf in made.leaves if leaf != made.name
    )  # fmt: skip
    audit = f"CREATE TABLE audit ({language.dialect.counted}, what varchar(20))"
    isolations = ["read committed", "repeatable read"] if language.can.isolation_levels else ["read committed"]
    steps = statement(tables, language)
    return Program(
        (language.dialect.preamble, audit, *language.grammar.preamble, *(text for made in tables for text in made.ddl)),
        tuple(tables),
        fill,
        tuple(draw(st.lists(steps, min_size=1, max_size=8))),
        tuple(draw(st.lists(steps, min_size=3, max_size=9))) if foreign else (),
        draw(st.sampled_from(isolations)),
        draw(st.booleans()),
        draw(st.booleans()),
    )


def carry_out(target: Target, grammar: Grammar, statements: Sequence[str], *, keep: bool) -> list[str]:
    """The statements that the constraints allow, one after the other; with `keep` they are committed."""
    found = []
    with target.session() as session:
        for text in statements:
            session.execute("SAVEPOINT one")
            try:
                session.execute(text)
                for check in grammar.check_now:
                    session.execute(check)
            except target.refusal:
                session.execute("ROLLBACK TO SAVEPOINT one")
            else:
                found.append(text)
        if keep:
            session.commit()
    return found
