"""docs/reference/engines.md: what each engine can do, what it cannot and why. From capabilities and tests; no server.

The tests are read as text: their names are the behaviours, and `@pytest.mark.needs("…")` names the capabilities that
an engine must have for them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from backout.engines.mariadb.connect import MariaDatabase
from backout.engines.postgres.connect import PostgresDatabase
from backout.engines.sqlite.connect import SqliteDatabase
from backout.engines.values import Capabilities, Missing

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
from conformance.cases import CASES  # noqa: E402 -- tests are no package that is installed

#: (name, versions that the suite runs on, capabilities)
ENGINES: dict[str, tuple[str, Capabilities]] = {
    "PostgreSQL": ("15, 16 and 18", PostgresDatabase.capabilities),
    "MariaDB": ("10.11", MariaDatabase.capabilities),
    "SQLite": ("the one in apsw", SqliteDatabase.capabilities),
}
MEANS = {one.name: str(one.metadata["means"]) for one in fields(Capabilities)}
_HEAD = (
    "Every engine passes one suite of tests, `tests/conformance`: {} behaviours, written once. One is left out for an "
    "engine only where the engine lacks a capability, which it names with the reason.\n"
)


@dataclass(frozen=True)
class Behaviour:
    """One test of the suite."""

    name: str
    needs: frozenset[str]

    @property
    def case(self) -> int | None:
        found = re.match(r"case_(\d\d)_", self.name)
        return int(found[1]) if found else None

    @property
    def sentence(self) -> str:
        return re.sub(r"^case_\d\d_", "", self.name).replace("_", " ")

    def lacks(self, capabilities: Capabilities) -> list[str]:
        return sorted(name for name in self.needs if isinstance(getattr(capabilities, name), Missing))


def behaviours() -> list[Behaviour]:
    """All tests of the suite, the twenty cases first."""
    found = [
        Behaviour(node.name.removeprefix("test_"), frozenset(_needs(node)))
        for path in sorted((TESTS / "conformance").rglob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not node.name.endswith("_hunted")
        if {"target", "stage"} & {argument.arg for argument in node.args.args} or _of_fixture(path, node)
    ]
    return sorted(found, key=lambda one: (one.case or 99, one.name))


def _of_fixture(path: Path, node: ast.FunctionDef) -> bool:
    """Whether a fixture of the file that the test asks for stands on a target."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = {one.name for one in tree.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("test_")}
    return bool(ours & {argument.arg for argument in node.args.args})


def _needs(node: ast.FunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.needs":
                yield from (ast.literal_eval(argument) for argument in call.args)


def page(note: str) -> str:
    """The whole page."""
    tests = behaviours()
    parts = [
        f"{note}\n# Engines: what each can do, what it cannot, and why\n",
        _HEAD.format(len(tests)),
        _overview(tests),
        "\n## The twenty cases on which row-undo tools lose data\n",
        "Each is captured and undone exactly, or refused before anything is written.\n",
        _cases(tests),
    ]
    parts += [_engine(name, capabilities, tests) for name, (_, capabilities) in ENGINES.items()]
    return "\n".join(parts)


def _overview(tests: list[Behaviour]) -> str:
    rows = [
        f"| {name} | {versions} | {sum(not one.lacks(capabilities) for one in tests)} of {len(tests)} |"
        for name, (versions, capabilities) in ENGINES.items()
    ]
    return "\n".join(["| engine | tested on | behaviours |", "|---|---|---|", *rows])


def _cases(tests: list[Behaviour]) -> str:
    lines = [f"| | case | {' | '.join(ENGINES)} |", f"|---|---|{'---|' * len(ENGINES)}"]
    for number, title in CASES.items():
        mine = [one for one in tests if one.case == number]
        cells = [_case(mine, capabilities) for _, capabilities in ENGINES.values()]
        lines.append(f"| {number} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _case(tests: list[Behaviour], capabilities: Capabilities) -> str:
    missing = sorted({name for one in tests for name in one.lacks(capabilities)})
    there = any(not one.lacks(capabilities) for one in tests)
    without = f"without {', '.join(f'`{name}`' for name in missing)}"
    if not there:
        return f"nothing to lose: {without}"
    return f"yes, {without}" if missing else "yes"


def _engine(name: str, capabilities: Capabilities, tests: list[Behaviour]) -> str:
    lines = [f"\n## What {name} cannot do, and why\n"]
    rows = []
    for capability, means in MEANS.items():
        has = getattr(capabilities, capability)
        if not isinstance(has, Missing):
            continue
        concerned = [one.sentence for one in tests if capability in one.needs]
        rows.append(f"| `{capability}` | {means} | {has.why} | {'; '.join(concerned) or 'nothing'} |")
    if not rows:
        return "\n".join([*lines, "Nothing of what the suite asks for."]) + "\n"
    head = ["| capability | what it would be | why it is missing | not tested here |", "|---|---|---|---|"]
    return "\n".join([*lines, *head, *rows]) + "\n"
