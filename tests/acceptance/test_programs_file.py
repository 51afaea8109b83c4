"""What a program's interpreter reads is, byte for byte, the text that was read, approved and recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.test_programs import SCHEMA, Programs, yes
from backout.engines.values import RunState
from backout.errors import RolledBack
from servers import PostgresDatabase

PROGRAM = """
connection.execute("UPDATE patient SET phone = 'mended'")
connection.commit()
"""


@pytest.fixture
def programs(postgres18: PostgresDatabase, tmp_path: Path) -> Programs:
    postgres18.as_application(SCHEMA)
    found = Programs(tmp_path, postgres18)
    found.python(PROGRAM)
    return found


def is_refused(programs: Programs, ask: Callable[[str, str], bool] = yes) -> bool:
    before = programs.rows()
    with pytest.raises(RolledBack, match="is not, byte for byte, the text that was read") as caught:
        programs.project.run(programs.project.change("mend"), "staging", ask=ask)
    assert caught.value.hint is not None
    return programs.rows() == before


def test_a_file_that_was_exchanged_while_a_question_was_open_is_not_run(programs: Programs) -> None:
    file = programs.folder / "changes" / "mend.py"

    def exchange(_kind: str, _question: str) -> bool:
        file.write_text(file.read_text().replace("mended", "spoilt"))
        return True

    assert is_refused(programs, exchange)


def test_what_a_program_did_whose_file_was_exchanged_meanwhile_is_rolled_back(programs: Programs) -> None:
    programs.python(f"{PROGRAM}open(__file__, 'a').write('# and more')\n")
    assert is_refused(programs)


def test_a_file_that_is_gone_is_not_run(programs: Programs) -> None:
    file = programs.folder / "changes" / "mend.py"

    def remove(_kind: str, _question: str) -> bool:
        file.unlink(missing_ok=True)
        return True

    assert is_refused(programs, remove)


def test_line_ends_that_the_digest_does_not_know_are_an_interpreters_business(programs: Programs) -> None:
    """`set -e` with a carriage return behind it is no `set -e`, and the digest is the same."""
    file = programs.folder / "changes" / "mend.py"
    change = programs.project.change("mend")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert programs.project.change("mend").digest == change.digest
    assert is_refused(programs)


def test_a_program_in_batches_is_the_text_that_was_read_too(programs: Programs) -> None:
    batches = 'batch = {table = "patient", by = "id", size = 2}\n'
    programs.python("", more=f"# {batches}")
    file = programs.folder / "changes" / "mend.py"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert is_refused(programs)


def test_a_command_without_the_file_reads_none(programs: Programs) -> None:
    programs.python(PROGRAM)
    file = programs.folder / "changes" / "mend.py"
    program = programs.folder / "task.py"
    program.write_text(file.read_text())
    file.write_text(file.read_text().replace("{file}", str(program)).replace("\n", "\r\n"))
    assert programs.project.run(programs.project.change("mend"), "staging", ask=yes).outcome is RunState.COMMITTED
