"""What clients of a change in batches may count on: types, prepared statements, settings; and what is refused to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.clients import needs, needs_ruby
from acceptance.test_programs_batches import LOOP, Programs
from backout.engines.values import RunState
from backout.errors import InvalidFile, UsageError
from servers import PostgresDatabase

COMPOSITE = """
CREATE TABLE "Odd ""Visit" (clinic text, "Day" date, n integer NOT NULL DEFAULT 0, PRIMARY KEY (clinic, "Day"));
INSERT INTO "Odd ""Visit" SELECT CASE g % 3 WHEN 0 THEN '' ELSE 'c''' || g % 3 END, date '2026-01-01' + g
    FROM generate_series(1, 100) g;
"""


@pytest.fixture
def programs(postgres18: PostgresDatabase, tmp_path: Path) -> Programs:
    return Programs(tmp_path, postgres18)


def goes_through(programs: Programs) -> None:
    before = programs.rows()
    report = programs.run()
    assert report.outcome is RunState.COMMITTED
    programs.project.undo(report.identifier, ask=lambda *_: True)
    assert programs.rows() == before


@pytest.mark.parametrize("how", ["prepare=True", "prepare=False", "binary=True"])
def test_bounds_have_the_type_of_the_key_in_each_protocol(programs: Programs, how: str) -> None:
    programs.python(f"""
seen = []
while (batch := connection.execute("select * FROM BACKOUT.next_batch() ; -- next", {how}).fetchone()) is not None:
    number, after, upto, condition, again = batch
    assert type(upto) is int and type(number) is int and again in (True, False), batch
    assert after == (None if number == 1 else seen[-1] if not again else seen[-2] if number > 1 else None), batch
    if not again:
        seen.append(upto)
    connection.execute("UPDATE referral SET visits = visits + 1 WHERE " + condition)
assert seen == [900, 1800, 2700, 3000], seen
assert connection.execute("SELECT * FROM backout.next_batch()").fetchall() == []
""")
    goes_through(programs)


def test_composite_keys_have_their_columns_bounds(programs: Programs) -> None:
    programs.database.as_application(COMPOSITE)
    programs.python(
        """
from psycopg.rows import dict_row
cursor = connection.cursor(row_factory=dict_row)
while (batch := cursor.execute("SELECT * FROM backout.next_batch()").fetchone()) is not None:
    assert list(batch) == ["number", "after_clinic", "upto_clinic", "after_Day", "upto_Day", "condition", "again"]
    assert (batch["after_clinic"] is None) == (batch["number"] == 1)
    connection.execute('UPDATE "Odd ""Visit" SET n = n + 1 WHERE ' + batch["condition"])
""",
        'batch = {table = \'Odd "Visit\', by = ["clinic", "Day"], size = 7}',
    )
    goes_through(programs)


def test_settings_and_prepared_statements_outlive_a_batch(programs: Programs) -> None:
    programs.python("""
other = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
other.execute("SET TimeZone = 'Asia/Tokyo'")
connection.execute("SET TimeZone = 'Europe/Berlin'")
connection.execute("SET search_path = pg_catalog, public")
connection.execute("PREPARE mine AS SELECT count(*) FROM referral")
while (batch := connection.execute("SELECT * FROM backout.next_batch()", prepare=True).fetchone()) is not None:
    assert connection.execute("SHOW TimeZone").fetchone() == ("Europe/Berlin",)
    assert connection.execute("SHOW search_path").fetchone() == ("pg_catalog, public",)
    assert other.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
    assert connection.execute("EXECUTE mine").fetchone() == (1000,)
    connection.execute("SET LOCAL TimeZone = 'UTC'")
    bounds = [batch[2], batch[1] or 0]
    connection.execute("UPDATE referral SET visits = visits + 1 WHERE id <= %s AND id > %s", bounds, prepare=True)
    try:
        with connection.transaction():
            connection.execute("UPDATE referral SET visits = 77 WHERE id = %s", [batch[2]])
            connection.execute("SET TimeZone = 'UTC'")
            raise ZeroDivisionError  # psycopg itself ends what was prepared, behind a ROLLBACK
    except ZeroDivisionError:
        connection.execute("PREPARE mine AS SELECT count(*) FROM referral")
assert connection.execute("SHOW TimeZone").fetchone() == ("Europe/Berlin",)
assert connection.execute("SELECT min(visits), max(visits) FROM referral").fetchone() == (1, 1)
""")
    goes_through(programs)


ODD = {
    "BEGIN": "25001",
    "SELECT backout.next_batch()": "0A000",
    "SELECT *, 1 FROM backout.next_batch()": "0A000",
    "SELECT * FROM backout.next_batch() LIMIT 1": "0A000",
    "SELECT * FROM backout.next_batch() AS b": "0A000",
    "SELECT * FROM backout.next_batch(1)": "0A000",
    "WITH b AS (SELECT * FROM backout.next_batch()) SELECT * FROM b": "0A000",
    "PREPARE b AS SELECT * FROM backout.next_batch()": "0A000",
    "DECLARE b CURSOR FOR SELECT * FROM backout.next_batch()": "0A000",
    "COPY (SELECT * FROM backout.next_batch()) TO STDOUT": "0A000",
    "SELECT 1; SELECT * FROM backout.next_batch()": "25001",
    "SELECT * FROM backout.next_batch(); SELECT * FROM backout.next_batch()": "25001",
    "PREPARE backout_behind_locks AS SELECT 1": "42939",
    "DEALLOCATE backout_behind_locks": "42939",
    "CLOSE backout_before": "42939",
    "CLOSE ALL": "42939",
    "FETCH backout_before": "42939",
    "DECLARE backout_before CURSOR FOR SELECT 1": "42939",
}


def test_other_ways_to_ask_and_names_of_ours_are_refused(programs: Programs) -> None:
    programs.python(f"""
odd = {ODD!r}
first = True
while (batch := connection.execute("SELECT * FROM backout.next_batch()").fetchone()) is not None:
    for text, sqlstate in odd.items():
        try:
            if text == "BEGIN":
                connection.execute(text)
                text = "SELECT * FROM backout.next_batch()"
            connection.execute(text)
        except psycopg.Error as error:
            assert error.sqlstate == sqlstate, (text, error.sqlstate, error)
            assert error.diag.message_hint, text
            connection.execute("ROLLBACK")
        else:
            raise SystemExit(text)
    other = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    try:
        other.execute("SELECT * FROM backout.next_batch()")
    except psycopg.Error as error:
        assert error.sqlstate == "55006", error.sqlstate
    else:
        raise SystemExit("two clients")
    other.execute("UPDATE referral SET visits = visits + 1 WHERE " + batch[3])
    other.close()
""")
    goes_through(programs)


def test_a_pipeline_cannot_ask_behind_what_it_wrote(programs: Programs) -> None:
    programs.python("""
connection.execute("SELECT * FROM backout.next_batch()")
try:
    with connection.pipeline():
        connection.execute("UPDATE referral SET visits = 99")
        connection.execute("SELECT * FROM backout.next_batch()")
except psycopg.Error as error:
    assert error.sqlstate == "25001", error.sqlstate
else:
    raise SystemExit("let through")
assert connection.execute("SELECT max(visits) FROM referral").fetchone() == (0,)
while (batch := connection.execute("SELECT * FROM backout.next_batch()").fetchone()) is not None:
    connection.execute("UPDATE referral SET visits = visits + 1 WHERE " + batch[3])
""")
    goes_through(programs)


def test_rows_of_other_batches_are_refused(programs: Programs) -> None:
    programs.python(LOOP.replace("AND id <= %s", "AND id <= %s + 3").replace("LATER", "pass"))
    before = programs.rows()
    error = programs.fails()
    assert "not of the batch at hand" in error.message
    assert programs.rows() == before


def test_a_paused_run_ends_between_two_batches_and_is_resumed(programs: Programs) -> None:
    programs.python(LOOP.replace("LATER", "if number == 2 and not again: open('two', 'w').close()"))
    import threading
    import time

    def pause() -> None:
        while not (programs.folder / "two").exists():
            time.sleep(0.01)
        programs.project.pause("staging-1")

    thread = threading.Thread(target=pause)
    programs.python(
        LOOP.replace(
            "LATER",
            """
    if number == 2 and not os.path.exists('two'):
        open('two', 'w').close()
        import time
        time.sleep(3)
""",
        )
    )
    thread.start()
    error = programs.fails()
    thread.join()
    assert error.message == "paused"
    assert error.state.startswith("committed up to batch")
    report = programs.project.resume("staging-1", ask=lambda *_: True)
    assert report.outcome is RunState.COMMITTED
    programs.once()
    lines = programs.database.execute("SELECT count(*), max(place) FROM rescue.transcript WHERE run = 1")
    assert lines[0][0] == lines[0][1]


def test_a_rehearsal_goes_there_and_back(programs: Programs) -> None:
    programs.python(LOOP.replace("LATER", "pass"))
    before = programs.rows()
    programs.project.rehearse(programs.project.change("mend"), "staging", ask=lambda *_: True)
    assert programs.rows() == before


@pytest.mark.parametrize("batch", [
    "batch = 3", 'batch = {table = "referral"}', 'batch = {table = "r", by = "id", size = 0}',
    'batch = {table = "r", by = ["id", "id"]}', 'batch = {table = "r", by = "id", sise = 3}',
    'batch = {table = "r", by = ","}',
])  # fmt: skip
def test_a_batch_that_is_not_understood_is_an_error_of_the_file(programs: Programs, batch: str) -> None:
    programs.python("", batch)
    with pytest.raises(InvalidFile, match="batch"):
        programs.project.change("mend")


def test_batch_is_for_programs_alone(programs: Programs) -> None:
    text = '# /// change\n# title = "Mend"\n# batch = {table = "r", by = "id"}\n# ///\ndef apply(db):\n    pass\n'
    (programs.folder / "changes" / "mend.py").write_text(text)
    with pytest.raises(InvalidFile, match="is for a program"):
        programs.project.change("mend")


def test_a_typed_command_does_not_take_batches(programs: Programs) -> None:
    programs.python(LOOP.replace("LATER", "pass"))
    with pytest.raises(UsageError, match="runs in batches"):
        programs.project.endpoint(programs.project.change("mend"), "staging", ["true"], ask=lambda *_: True)


def test_next_batch_without_batch_in_the_metadata_is_refused(programs: Programs) -> None:
    programs.python(
        """
try:
    connection.execute("SELECT * FROM backout.next_batch()")
except psycopg.Error as error:
    assert error.sqlstate == "0A000" and "batch = {" in error.diag.message_hint
else:
    raise SystemExit("let through")
connection.execute("UPDATE referral SET visits = 5 WHERE id = 3")
""",
        'risk = "none"',
    )
    goes_through(programs)


RUBY = """# /// change
# title = "Mend"
# run = ["ruby", "{file}"]
# batch = {table = "referral", by = "id", size = 300}
# ///
require "active_record"
ActiveRecord::Base.establish_connection(ENV["DATABASE_URL"])
class Referral < ActiveRecord::Base
  self.table_name = "referral"
end
seen = 0
while (batch = Referral.connection.select_one("SELECT * FROM backout.next_batch()"))
  raise batch.inspect unless batch["upto"].is_a?(Integer) && [true, false].include?(batch["again"])
  Referral.where(batch["condition"]).each { |one| one.update!(visits: one.visits + 1) }
  seen += 1
end
raise "#{seen} batches" unless seen >= 4
"""


@needs_ruby
def test_active_record_goes_through_its_rows_in_batches(programs: Programs) -> None:
    (programs.folder / "changes" / "mend.rb").write_text(RUBY)
    goes_through(programs)


SHELL = """# /// change
# title = "Mend"
# run = ["sh", "-e", "{file}"]
# batch = {table = "referral", by = "id", size = 400}
# ///
while condition=$(psql -XqAt -c 'SELECT * FROM backout.next_batch()' | cut -d'|' -f4) && [ -n "$condition" ]
do
    psql -Xq -v ON_ERROR_STOP=1 -c "UPDATE referral SET visits = visits + 1 WHERE $condition"
done
"""


@needs("psql")
def test_each_call_may_come_from_another_psql(programs: Programs) -> None:
    (programs.folder / "changes" / "mend.sh").write_text(SHELL)
    goes_through(programs)
    assert programs.database.execute("SELECT sum(looked_at)::int FROM backout.batch WHERE run = 1") == [(1000,)]
