"""What `read_change` makes of a file, and what it says about a broken one."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from backout.change.model import DataClass, Declaration, Expectation, StepKind
from backout.change.read import read_change
from backout.errors import InvalidFile, UsageError
from backout.sql.model import Dialect

META = '-- /// change\n-- title = "T"\n-- ///\n'
WITH_PARAMETERS = (
    '-- /// change\n-- title = "T"\n-- [parameters]\n-- n = 3\n-- m = {type = "int", per_environment = true}\n-- ///\n'
)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def make(text: str | bytes, name: str = "a.sql") -> Path:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Path(name)

    return make


def error_of(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_change(path)
    return str(caught.value)


def test_the_example_of_the_design_is_read(write: Write) -> None:
    path = write(
        """-- /// change
-- title = "Close the referrals that the November outage left open"
-- request = "https://tracker.example.org/4711"
-- data = "phi"                       # "phi" | "internal" | "public"
-- backout = "generated"
-- ///

-- @expect 120..150
UPDATE referral SET status = 'closed' WHERE status = 'open' AND opened_at < DATE '2026-11-14';

-- @assert "nothing from before the outage is still open"
SELECT count(*) = 0 FROM referral WHERE status = 'open' AND opened_at < DATE '2026-11-14';
""",
        "close-referrals.sql",
    )
    change = read_change(path)
    assert (change.identifier, change.language, change.dialect) == ("close-referrals", "sql", Dialect.POSTGRES)
    assert change.metadata.data is DataClass.PHI
    assert change.metadata.request == "https://tracker.example.org/4711"
    assert [(step.kind, step.title, step.expectation) for step in change.steps] == [
        (StepKind.APPLY, None, Expectation(120, 150, 8)),
        (StepKind.ASSERT, "nothing from before the outage is still open", None),
    ]
    assert (change.steps[0].statement.line, change.steps[1].statement.line) == (9, 12)
    assert len(change.digest) == 64


def test_all_directives_make_their_steps(write: Write) -> None:
    path = write(
        WITH_PARAMETERS + '-- @pre "p"\nSELECT 1;\n-- @expect :n..:m\nDELETE FROM a;\n-- @post "p"\nSELECT 1;\n'
        '-- @expect 1\nINSERT INTO a VALUES (1);\n-- @after "x"\nSELECT true;\n--@assert "y"\nSELECT true'
    )
    steps = read_change(path).steps
    assert [step.kind.value for step in steps] == ["pre", "apply", "post", "apply", "after", "assert"]
    assert steps[1].expectation == Expectation("n", "m", 9)
    assert steps[3].expectation == Expectation(1, 1, 13)


def test_prose_with_an_at_sign_is_no_directive(write: Write) -> None:
    path = write(META + "-- ask ops@example.org\n-- @ noon\n--   @alice knows\n/* @expect 5 */ SELECT 1")
    assert read_change(path).steps[0].expectation is None


def test_text_in_the_metadata_is_no_directive(write: Write) -> None:
    path = write('-- /// change\n-- title = """\n-- @nobody\n-- """\n-- ///\nSELECT 1')
    assert read_change(path).metadata.title == "@nobody\n"


def test_the_dialect_of_the_file_wins_over_the_default(write: Write) -> None:
    path = write('-- /// change\n-- title = "T"\n-- dialect = "sqlite"\n-- ///\nPRAGMA table_info(a)')
    assert read_change(path, default_dialect=Dialect.POSTGRES).dialect is Dialect.SQLITE
    other = write(META + "SELECT 1")
    assert read_change(other, default_dialect=Dialect.SQLITE).dialect is Dialect.SQLITE


def test_parameters_are_values_or_declarations(write: Write) -> None:
    path = write(
        '-- /// change\n-- title = "T"\n-- [parameters]\n-- a = 1\n-- b = 2026-11-14\n-- c = ["x", "y"]\n'
        '-- d = {type = "numeric", value = "1.50"}\n-- e = {type = "date", per_environment = true}\n-- ///\n'
        "SELECT :a, :e"
    )
    change = read_change(path)
    assert change.metadata.parameters == {"a": 1, "b": date(2026, 11, 14), "c": ["x", "y"], "d": Decimal("1.50")}
    assert change.metadata.declarations == {"e": Declaration("date")}
    assert change.steps[0].statement.parameters == ("a", "e")


def test_line_ends_are_made_lf(write: Write) -> None:
    unix = read_change(write(META + "SELECT 1;\n"))
    windows = read_change(write((META + "SELECT 1;\n").replace("\n", "\r\n")))
    assert (unix.text, unix.digest) == (windows.text, windows.digest)


def test_a_symbolic_link_is_read_under_its_own_name(write: Write) -> None:
    target = write(META + "SELECT 1", "target.sql")
    link = Path("link.sql")
    link.symlink_to(target)
    assert read_change(link).identifier == "link"


def test_a_python_change_is_read_without_being_run(write: Write) -> None:
    path = write('# /// change\n# title = "T"\n# ///\nraise SystemExit\ndef apply(db):\n    pass\n', "a.py")
    change = read_change(path)
    assert (change.language, change.steps, change.metadata.title) == ("python", (), "T")


def test_the_undo_file_is_part_of_the_digest(write: Write) -> None:
    path = write('-- /// change\n-- title = "T"\n-- backout = "undo.sql"\n-- ///\nSELECT 1')
    assert error_of(path) == 'no change file "undo.sql"\nstate: untouched\nhint: backout new makes one'
    write("SELECT 1", "undo.sql")
    before = read_change(path).digest
    write("SELECT 2", "undo.sql")
    assert read_change(path).digest != before


MINIMAL = '-- /// change\n-- title = "What this change does, in one sentence"\n-- ///'
DIRECTIVES = "known are: @after, @assert, @batch, @expect, @post, @pre, @subset"
BLOCK = "in the metadata block"
TYPES = "known are: bool, bool[], date, date[], int, int[], numeric, numeric[], text, text[], timestamp, timestamp[]"


def meta(line: str) -> str:
    return f'-- /// change\n-- title = "T"\n-- {line}\n-- ///\nSELECT 1'


BROKEN = [
    ("SELECT 1", "a.sql:1:1: no metadata block before the first statement", f"begin the file with:\n{MINIMAL}"),
    ("SELECT 1;\n" + META, "a.sql:1:1: no metadata block before the first statement",
     f"begin the file with:\n{MINIMAL}"),
    ("", "a.sql:1:1: no metadata block before the first statement", f"begin the file with:\n{MINIMAL}"),
    ('\n-- /// change\n-- title = "T"\nSELECT 1', "a.sql:2:1: the metadata block has no end",
     'end it with a line "-- ///"'),
    ("-- /// change\n-- ///\nSELECT 1", 'a.sql:1:1: the metadata has no "title"',
     '-- title = "What this change does, in one sentence"'),
    ('-- /// change\n-- title = " "\n-- ///\nSELECT 1', 'a.sql:2:4: the metadata has no "title"',
     '-- title = "What this change does, in one sentence"'),
    (meta("risk = "), "a.sql:3:11: not valid TOML: invalid value", None),
    (meta('risk = "x'), "a.sql:3:13: not valid TOML: illegal character '\\n'", None),
    (meta('risc = "x"'), 'a.sql:3:4: unknown key "risc"', 'did you mean "risk"?'),
    (meta('run = ["x"]'), 'a.sql:1:1: key "run" in a change of statements',
     "take it out: backout runs them itself"),
    (meta("risk = 1"), 'a.sql:3:4: key "risk" must be text', 'risk = "…"'),
    (meta("repeat = 1"), 'a.sql:3:4: key "repeat" must be true or false', "repeat = true"),
    (meta('tracking = "csv"'), 'a.sql:3:4: key "tracking" may not be "csv"', "known are: files, summary"),
    (meta('data = "phi"\n-- tracking = "files"'), "a.sql:4:4: rows that are PHI are not written into tracking files",
     "take it out: their images stay in the rescue schema"),
    (meta('data = "phy"'), 'a.sql:3:4: key "data" may not be "phy"',
     'did you mean "phi"? known are: internal, phi, public'),
    (meta('dialect = "mysql"'), 'a.sql:3:4: key "dialect" may not be "mysql"', "known are: mariadb, postgres, sqlite"),
    (meta("parameters = 1"), 'a.sql:3:4: key "parameters" must be a table', "write [parameters], then name = value"),
    (meta("[parameters]\n-- x = {a = 1}"), 'a.sql:4:4: parameter "x" has an unknown key "a"',
     "known are: per_environment, type, value"),
    (meta('[parameters]\n-- x = {type = "dat"}'), 'a.sql:4:4: parameter "x" has the unknown type "dat"',
     f'did you mean "date"? {TYPES}'),
    (meta('[parameters]\n-- x = {type = "date"}'),
     'a.sql:4:4: parameter "x" needs either a value or per_environment = true',
     'x = {type = "date", per_environment = true}, or with value = … instead'),
    (meta('[parameters]\n-- x = {type = "date", value = "no"}'),
     'a.sql:4:4: the value of parameter "x" is not of type "date"', "write a date such as 2026-11-14"),
    (meta("[parameters]\n-- x = []"), 'a.sql:4:4: parameter "x" is neither a value nor a list of one type', None),
    (meta('[parameters]\n-- "a b" = 1'), 'a.sql:4:5: parameter "a b" is not a name',
     "use letters, digits and underscores"),
    (META + "-- only a comment", "a.sql:3:1: the change has no statement to apply",
     "write one after the metadata block"),
    (META + '-- @assert "x"\nSELECT 1', "a.sql:3:1: the change has no statement to apply",
     "write one after the metadata block"),
    (META + "-- @expct 1\nDELETE FROM a", 'a.sql:4:4: unknown directive "@expct"',
     f'did you mean "@expect"? {DIRECTIVES}'),
    (META + "-- @batch a\nDELETE FROM a", 'a.sql:4:4: directive "@batch" is not understood',
     "@batch table by=key, or @batch table by=key,key size=1000"),
    (META + "-- @batch a by=i,i\nDELETE FROM a", 'a.sql:4:4: "@batch" names a column twice',
     "@batch table by=key, or @batch table by=key,key size=1000"),
    (META + "-- @batch a by=i size=0\nDELETE FROM a", 'a.sql:4:4: "@batch" with size=0 can never end',
     "@batch table by=key, or @batch table by=key,key size=1000"),
    (META + "-- @batch a by=i\nSELECT 1", 'a.sql:4:4: "@batch" stands before a statement that writes nothing',
     "write it before the statement"),
    (META + "-- @batch a by=i\n-- @batch a by=i\nDELETE FROM a", 'a.sql:5:4: a second "@batch" for one statement',
     "keep one"),
    (META + "-- @batch a by=i\nDELETE FROM a;\nDELETE FROM b", "a.sql:6:1: a change with @batch has one statement, "
     "and this is another",
     "make a change of its own of it: each batch is a transaction, and this would belong to none"),
    (META + '-- @assert "x"\nSELECT true;\n-- @batch a by=i\nDELETE FROM a',
     'a.sql:5:1: the assertion "x" stands before the statement that runs in batches',
     "write it after the statement: assertions are asked once, after the last batch"),
    (META + "-- @batch a by=i\nUPDATE a SET i = 1", "a.sql:5:1: this statement cannot run in batches: "
     'it changes "i", by which its rows are told apart', "leave that column as it is"),
    (META + "-- @expect total 5\nDELETE FROM a", 'a.sql:4:1: "@expect total" without "@batch"',
     "write @expect LOW..HIGH"),
    (META + "-- @subset 10\nDELETE FROM a", 'a.sql:4:4: directive "@subset" is not understood',
     "@subset table by=key"),
    (META + "-- @expect some\nDELETE FROM a", 'a.sql:4:4: directive "@expect" has no number of rows',
     "@expect 12, @expect 10..20 or @expect :name"),
    (META + "-- @expect 1..\nDELETE FROM a",
     'a.sql:4:4: "@expect 1.." has no upper bound, which is what stops a condition that is too wide',
     "write the most rows that it may be: @expect 1..HIGH"),
    (META + "-- @expect 9..1\nDELETE FROM a", 'a.sql:4:4: "@expect 9..1" can never be met', "@expect 1..9"),
    (META + "-- @expect :n\nDELETE FROM a", 'a.sql:4:4: parameter "n" is not declared',
     "declare it under [parameters] in the metadata block"),
    (META + "-- @expect 1\nSELECT 1", 'a.sql:4:4: "@expect" stands before a statement that writes nothing',
     "write it before the INSERT, UPDATE or DELETE; for a query use @assert"),
    (META + "-- @expect 1\nDO $$ BEGIN END $$", 'a.sql:4:4: "@expect" stands before a statement that reports no rows',
     "use @assert with a query"),
    (META + "-- @expect 1\n-- @expect 2\nDELETE FROM a", 'a.sql:5:4: a second "@expect" for one statement',
     "write one: @expect LOW..HIGH"),
    (META + '-- @assert "x"\nDELETE FROM a', 'a.sql:4:4: "@assert" stands before a statement that is not a query',
     "give it a SELECT"),
    (META + "-- @assert x\nSELECT 1", 'a.sql:4:4: directive "@assert" has no title', '@assert "what it shows"'),
    (META + '-- @pre "x"\n-- @post "x"\nSELECT 1', 'a.sql:5:4: directive "@post" after "@pre" for one statement',
     "keep one"),
    (META + "-- @undo\nDELETE FROM a", 'a.sql:4:4: directive "@undo" is not in this version',
     "rows are put back from their images; write what rows cannot tell as a change of its own"),
    (META + 'SELECT 1;\n-- @assert "x"\nSELECT 1;\n-- @assert "x"\nSELECT 2',
     'a.sql:8:1: a second "@assert" with the title "x"', "name it apart"),
    (META + 'SELECT 1;\n-- @assert "x"\n', 'a.sql:5:4: directive "@assert" has no statement after it',
     "write it before its statement"),
    (META + "SELECT 1; -- @expect 1\nDELETE FROM a", 'a.sql:4:14: directive "@expect" stands behind a statement',
     "write it on a line of its own, before its statement"),
    (META + "DELETE FROM a\n-- @expect 1\nWHERE b = 1", 'a.sql:5:4: directive "@expect" stands inside a statement',
     "write it on a line before it"),
    (b"\xef\xbb\xbf" + META.encode(), "a.sql:1:1: a byte order mark", "save the file as UTF-8 without BOM"),
    (META.encode() + b"-- \xc3\xa9 \xff", "a.sql:4:6: byte 0xFF is not UTF-8", "save the file as UTF-8"),
    (META.encode() + b"SELECT\0", "a.sql:4:7: a NUL character", "save the file as UTF-8 text"),
    (META + "SELECT 1;\nSELECT :x", 'a.sql:5:8: parameter "x" is not declared',
     "declare it under [parameters] in the metadata block"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "hint"), BROKEN)
def test_a_broken_file_is_explained_with_its_place(
    write: Write, text: str | bytes, message: str, hint: str | None
) -> None:
    lines = [message, "state: untouched", *([f"hint: {hint}"] if hint else [])]
    assert error_of(write(text)) == "\n".join(lines)


PY = '# /// change\n# title = "T"\n# ///\n'
APPLY = "define it at the top level:\ndef apply(db):\n    db.execute(…)"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (PY, 'a.py:1:1: the change does not define "apply"', APPLY),
        (PY + "class A:\n    def apply(self): ...", 'a.py:1:1: the change does not define "apply"', APPLY),
        (PY + "def apply(:", "a.py:4:11: not valid Python: invalid syntax", None),
        (PY + "async def apply(db): ...", 'a.py:4:1: function "apply" is async', "write def apply(db):"),
        (PY + "def apply(): ...", 'a.py:4:1: function "apply" must take the database as its one argument',
         "write def apply(db):"),
        (PY + "def apply(db): ...\ndef check(db, x): ...",
         'a.py:5:1: function "check" must take the database as its one argument', "write def check(db):"),
    ],
)  # fmt: skip
def test_a_broken_python_change_is_explained_with_its_place(
    write: Write, text: str, message: str, hint: str | None
) -> None:
    lines = [message, "state: untouched", *([f"hint: {hint}"] if hint else [])]
    assert error_of(write(text, "a.py")) == "\n".join(lines)


def test_a_file_that_is_not_there_is_named(write: Write) -> None:
    assert error_of(Path("none.sql")) == 'no change file "none.sql"\nstate: untouched\nhint: backout new makes one'


def test_a_directory_is_not_a_change(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f'"{tmp_path}" is a directory\nstate: untouched\nhint: name one change file in it'


def test_a_file_of_another_language_is_refused(write: Write) -> None:
    assert error_of(write("", "a.cob")) == (
        '"a.cob" is not a change: its name ends in ".cob"\nstate: untouched\n'
        "hint: name it .sql, .py, or one of .rb, .rake, .sh, .pl, .ex, .exs, .js, .mjs, .cjs, .ts, .php, .go, .kts with "
        "`run` in its metadata"
    )


def test_an_undo_file_elsewhere_is_refused(write: Write) -> None:
    path = write('-- /// change\n-- title = "T"\n-- backout = "../undo.sql"\n-- ///\nSELECT 1')
    assert error_of(path) == (
        'the undo file "../undo.sql" of "a.sql" is not a file beside it\nstate: untouched\n'
        "hint: keep the undo file beside the change, and write its name alone"
    )


def test_a_forbidden_statement_is_read_so_that_the_review_can_refuse_it(write: Write) -> None:
    steps = read_change(write(META + "-- @expect 1\nTRUNCATE a;\nSELECT 1")).steps
    assert steps[0].statement.objection is not None


def test_every_error_of_a_file_is_an_invalid_file(write: Write) -> None:
    with pytest.raises(InvalidFile) as caught:
        read_change(write("x"))
    assert (caught.value.exit_status, caught.value.state) == (2, "untouched")
