"""Constants in a text: masked where the rows are PHI, and refused where they stand for a column that is declared PHI."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.change.read import read_change
from backout.errors import Refused
from backout.lint.private_literal import require_no_private_literals
from backout.sql.literals import masked
from backout.sql.model import Dialect

PHI = {"referral": ("reason", "born"), "clinic.patient": ("name",)}


@pytest.mark.parametrize(
    ("dialect", "text", "shown"),
    [
        (Dialect.POSTGRES, "UPDATE t SET a = 'x' WHERE id = 4711 -- Ann", "UPDATE t SET a = ••• WHERE id = ••• "),
        (Dialect.POSTGRES, "SELECT E'\\'', $1, $$ Ann $$, B'1', 1.5e3, U&'d'", "SELECT •••, $1, •••, •••, •••, •••"),
        (Dialect.POSTGRES, 'SELECT "a", /* Ann */ DATE \'2026-01-01\'', 'SELECT "a",  DATE •••'),
        (Dialect.POSTGRES, "DO $body$ BEGIN RAISE 'Ann'; END $body$", "DO •••"),
        (Dialect.POSTGRES, "SELECT 'not ended", "•••"),
        (Dialect.SQLITE, "UPDATE t SET a = 'it''s', b = x'00' WHERE c = :c AND \"Ann\" = 1",
         "UPDATE t SET a = •••, b = ••• WHERE c = :c AND ••• = •••"),
        (Dialect.SQLITE, "SELECT [a], `b` FROM t", "SELECT [a], `b` FROM t"),
        (Dialect.MARIADB, "UPDATE t SET a = 'it\\'s', b = \"Ann\", c = 0x41 # Ann", "UPDATE t SET a = •••, b = •••, c = ••• "),
    ],
)  # fmt: skip
def test_a_masked_text_holds_no_value(dialect: Dialect, text: str, shown: str) -> None:
    assert shown == masked(text, dialect)


def require(tmp_path: Path, statement: str, dialect: Dialect = Dialect.POSTGRES, data: str = "phi") -> None:
    path = tmp_path / "change.sql"
    names = ("reason", "born", "old", "other", "name")
    declared = "".join(f'-- {one} = {{type = "text", per_environment = true}}\n' for one in names)
    parameters = f"-- [parameters]\n{declared}"
    path.write_text(f'-- /// change\n-- title = "A change"\n-- data = "{data}"\n{parameters}-- ///\n{statement};\n')
    require_no_private_literals(read_change(path, default_dialect=dialect), PHI)


def test_a_parameter_that_has_its_value_in_the_change_is_a_constant(tmp_path: Path) -> None:
    path = tmp_path / "change.sql"
    head = '-- /// change\n-- title = "A change"\n-- data = "phi"\n-- [parameters]\n-- who = "Ann"\n-- ///\n'
    for dialect in Dialect:
        path.write_text(f"{head}DELETE FROM referral WHERE reason = :who;\n")
        with pytest.raises(Refused):
            require_no_private_literals(read_change(path, default_dialect=dialect), PHI)
        path.write_text(f"{head}DELETE FROM referral WHERE status = :who;\n")
        require_no_private_literals(read_change(path, default_dialect=dialect), PHI)


REFUSED = [
    ("UPDATE referral SET reason = 'Ann'", "reason"),
    ("UPDATE referral SET status = 'x', reason = 'Ann' WHERE id = 1", "reason"),
    ("UPDATE referral SET status = 'x' WHERE id = 1 AND reason = 'Ann'", "reason"),
    ("UPDATE referral SET status = 'x' WHERE (id = 1 OR 'Ann' = reason)", "reason"),
    ("DELETE FROM referral WHERE referral.reason IN (:reason, 'Ann')", "reason"),
    ("DELETE FROM referral WHERE born BETWEEN :born AND '2026-01-01'", "born"),
    ("DELETE FROM referral WHERE lower(reason) LIKE 'ann%'", "reason"),
    ("UPDATE referral SET reason = replace(reason, :old, 'Ann')", "reason"),
    ("UPDATE referral SET reason = CASE WHEN id = 1 THEN 'Ann' END", "reason"),
    ("DELETE FROM referral WHERE (reason, id) = ('Ann', 1)", "reason"),
    ("DELETE FROM referral WHERE id IN (SELECT id FROM referral WHERE reason = 'Ann')", "reason"),
    ("INSERT INTO referral (id, reason) VALUES (1, :reason), (2, 'Ann')", "reason"),
    ("INSERT INTO referral (id, reason) SELECT id, 'Ann' FROM other", "reason"),
    ("INSERT INTO referral VALUES (1, :reason)", "?"),
    ("DELETE FROM clinic.patient WHERE name = 'Ann'", "name"),
    ("DELETE FROM referral WHERE id = (SELECT max(id) FROM clinic.patient p WHERE p.name = 'Ann')", "name"),
    ("DELETE FROM referral WHERE\nid = 1 AND\nreason = 'Ann'", "reason"),
]


@pytest.mark.parametrize("dialect", [Dialect.POSTGRES, Dialect.SQLITE, Dialect.MARIADB])
@pytest.mark.parametrize(("statement", "column"), REFUSED)
def test_a_constant_for_a_private_column_is_refused(
    tmp_path: Path, dialect: Dialect, statement: str, column: str
) -> None:
    """With its line and its column, never with the constant."""
    with pytest.raises(Refused) as raised:
        require(tmp_path, statement, dialect)
    assert f'a constant stands for the column "{column}", which is declared PHI' in raised.value.message
    assert "Ann" not in str(raised.value)
    assert raised.value.message.startswith(f"{tmp_path}/change.sql:{11 + statement.count(chr(10))}: ")


@pytest.mark.parametrize("dialect", [Dialect.POSTGRES, Dialect.SQLITE, Dialect.MARIADB])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE referral SET status = 'closed' WHERE reason = :reason",
        "UPDATE referral SET status = 'closed', reason = :reason WHERE id = 4711 AND born < :born",
        "UPDATE referral SET reason = NULL, status = 'closed' WHERE reason IS NOT NULL",
        "INSERT INTO referral (id, status, reason) VALUES (1, 'open', :reason)",
        "INSERT INTO referral (id, reason) SELECT 4711, reason FROM referral WHERE status = 'open'",
        "DELETE FROM referral WHERE born BETWEEN :born AND :old AND status = 'open'",
        "UPDATE other SET reason = 'not that table'",
        "DELETE FROM referral WHERE id IN (SELECT referral FROM other WHERE code = 'A')",
    ],
)
def test_parameters_and_other_columns_are_fine(tmp_path: Path, dialect: Dialect, statement: str) -> None:
    require(tmp_path, statement, dialect)


def test_a_change_of_a_private_table_says_that_it_is_phi(tmp_path: Path) -> None:
    with pytest.raises(Refused) as raised:
        require(tmp_path, "UPDATE referral SET status = 'x'", data="internal")
    assert str(raised.value).split("\n") == [
        f"{tmp_path}/change.sql:11: it is about a table with columns that are declared PHI, and the change says "
        'data = "internal"',
        "state: untouched",
        'hint: write data = "phi" into its metadata',
    ]
