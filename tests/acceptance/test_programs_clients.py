"""Clients as people have them: each is run directly and through the endpoint with equal results, and then undone."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from acceptance.clients import Both, needs, needs_ruby

MODELS = """
    require "active_record"
    ActiveRecord::Base.establish_connection(ENV.fetch("DATABASE_URL"))

    class Clinic < ActiveRecord::Base
      has_many :patients, dependent: :destroy
    end

    class Patient < ActiveRecord::Base
      belongs_to :clinic
      has_many :visits, dependent: :destroy
      self.locking_column = "version"
      validates :name, presence: true, length: { maximum: 40 }
      validates :phone, uniqueness: true, allow_nil: true
      before_save { self.phone = phone&.delete(" ") }
      after_destroy { Visit.create!(note: "removed #{name}") }
      after_commit { warn "committed #{id}" }
    end

    class Visit < ActiveRecord::Base
      belongs_to :patient, optional: true
      scope :old, -> { where("at < ?", Time.utc(2026, 11, 14)) }
    end
"""
ACTIVE_RECORD = """
    Patient.where("id <= 10").find_each { |one| one.update!(name: one.name.upcase) }
    Patient.find_in_batches(batch_size: 25) { |some| some.each(&:save!) }
    raise "valid" if Patient.new(name: "", clinic_id: 1).save
    raise "unique" if Patient.new(name: "x", phone: "5551", clinic_id: 1).save
    Visit.old.where("id > 80").update_all(note: "old")
    Clinic.find(2).destroy!
    Patient.transaction do
      Patient.find(3).update!(name: "outer")
      Patient.transaction(requires_new: true) do
        Patient.find(4).update!(name: "inner")
        raise ActiveRecord::Rollback
      end
      begin
        Patient.transaction(requires_new: true) { Clinic.insert!({ id: 1, name: "taken" }) }
      rescue ActiveRecord::RecordNotUnique
        Patient.find(5).update!(phone: nil)
      end
    end
    begin
      Patient.transaction { Patient.find(8).update!(name: "never"); raise "no" }
    rescue RuntimeError
      Clinic.create!(name: "after")
    end
    Patient.lock.find(9).update!(name: "locked")
    begin
      stale = Patient.find(10)
      Patient.find(10).update!(name: "first")
      stale.update!(name: "second")
    rescue ActiveRecord::StaleObjectError
      Patient.insert_all([{ name: "bulk 1", clinic_id: 1 }, { name: "bulk 2", clinic_id: 3 }])
    end
    Visit.where(patient_id: 12).delete_all
    Patient.transaction(isolation: :read_committed) { Patient.find(13).touch rescue nil }
    Patient.connection.exec_query("SELECT set_config('my.user', '7', false)")
    Patient.upsert_all([{ id: 14, name: "upserted", clinic_id: 1, version: 9 }])
"""


@needs_ruby
def test_active_record(both: Both) -> None:
    both.write("mend.rb", ["ruby", "{file}"], MODELS + ACTIVE_RECORD)
    both.are_equal_and_undone()


@needs_ruby
@needs("rake")
def test_rake_task(both: Both) -> None:
    tasks = (
        MODELS
        + """
    task :mend do
      Patient.where(clinic_id: 1).find_each { |one| one.update!(phone: one.phone.reverse) }
    end
    """
    )
    both.write("mend.rake", ["rake", "--quiet", "--rakefile", "{file}", "mend"], tasks)
    both.are_equal_and_undone()


DJANGO = """
    import os
    from urllib.parse import unquote, urlsplit
    import django
    from django.apps import AppConfig
    from django.conf import settings

    class App(AppConfig):
        name, label, path = "__main__", "clinic", "."

    place = urlsplit(os.environ["DATABASE_URL"])
    settings.configure(
        INSTALLED_APPS=["__main__.App"],
        DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": place.path[1:], "USER": place.username,
            "PASSWORD": unquote(place.password or ""), "HOST": place.hostname, "PORT": place.port,
        }},
        USE_TZ=True, TIME_ZONE="Europe/Berlin", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    from django.db import DatabaseError, IntegrityError, connection, models, transaction
    from django.db.models import F, Count
    from django.db.models.signals import post_delete, pre_save

    class Clinic(models.Model):
        name = models.TextField()
        class Meta:
            app_label, db_table = "clinic", "clinics"

    class Patient(models.Model):
        name = models.TextField()
        phone = models.TextField(null=True)
        clinic = models.ForeignKey(Clinic, on_delete=models.CASCADE)
        version = models.IntegerField(default=0)
        class Meta:
            app_label, db_table = "clinic", "patients"

    class Visit(models.Model):
        note = models.TextField(null=True)
        patient = models.ForeignKey(Patient, null=True, on_delete=models.CASCADE)
        class Meta:
            app_label, db_table = "clinic", "visits"

    pre_save.connect(lambda instance, **_: setattr(instance, "version", instance.version + 1), Patient, weak=False)
    post_delete.connect(lambda instance, **_: Visit.objects.create(note=f"gone {instance.name}"), Patient, weak=False)

    told = []
    for one in Patient.objects.filter(id__lte=10).iterator(chunk_size=3):
        one.phone = one.phone.replace(" ", "")
        one.save()
    with transaction.atomic():
        locked = Patient.objects.select_for_update(of=("self",)).get(id=13)
        locked.name = "locked"
        locked.save(update_fields=["name", "version"])
        transaction.on_commit(lambda: told.append("told"))
        try:
            with transaction.atomic():
                Clinic.objects.create(id=1, name="taken")
        except IntegrityError:
            Patient.objects.filter(id=12).update(name="after the savepoint")
    try:
        with transaction.atomic():
            Patient.objects.all().delete()
            raise DatabaseError
    except DatabaseError:
        pass
    some = list(Patient.objects.filter(clinic_id=3))
    for one in some:
        one.name = one.name.title()
    Patient.objects.bulk_update(some, ["name"], batch_size=4)
    Patient.objects.bulk_create([Patient(name=f"bulk {n}", clinic_id=1) for n in range(5)])
    Patient.objects.filter(clinic_id=4).update(version=F("version") + 5)
    Clinic.objects.get(id=2).delete()
    Patient.objects.update_or_create(id=14, defaults={"name": "updated", "clinic_id": 1})
    assert Patient.objects.values("clinic").annotate(n=Count("id")).count() == 4
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM patients WHERE id = %s", [13])
        assert cursor.fetchone() == ("locked",)
    assert told == ["told"]
"""


def test_django(both: Both) -> None:
    for one in (both.through, both.direct):  # as Django makes its foreign keys
        one.as_application(
            "ALTER TABLE patients ALTER CONSTRAINT patients_clinic_id_fkey DEFERRABLE INITIALLY DEFERRED"
        )
    both.write("mend.py", [sys.executable, "{file}"], DJANGO)
    both.are_equal_and_undone()


SQLALCHEMY = """
    import os
    from sqlalchemy import ForeignKey, create_engine, select, update
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

    class Base(DeclarativeBase):
        pass

    class Clinic(Base):
        __tablename__ = "clinics"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        patients: Mapped[list["Patient"]] = relationship(cascade="all, delete-orphan")

    class Patient(Base):
        __tablename__ = "patients"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        phone: Mapped[str | None]
        clinic_id: Mapped[int] = mapped_column(ForeignKey("clinics.id"))
        version: Mapped[int] = mapped_column(default=0)
        __mapper_args__ = {"version_id_col": version}

    engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        for one in session.scalars(select(Patient).where(Patient.id < 20).execution_options(yield_per=5)):
            one.phone = (one.phone or "").replace(" ", "")
        session.commit()
        session.add(Clinic(name="new", patients=[Patient(name=f"added {n}") for n in range(4)]))
        session.flush()
        try:
            with session.begin_nested():
                session.add(Clinic(id=1, name="taken"))
        except IntegrityError:
            session.execute(update(Patient).where(Patient.id == 21).values(name="after"))
        session.commit()
        session.execute(update(Patient).values(name="never"))
        session.rollback()
        session.connection().exec_driver_sql("DELETE FROM visits WHERE patient_id IN (SELECT id FROM patients WHERE clinic_id = 5)")
        session.delete(session.get(Clinic, 5))
        session.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("UPDATE patients SET name = 'auto' WHERE id = 30")
    engine.dispose()
"""  # noqa: E501  text of a program


def test_sqlalchemy(both: Both) -> None:
    both.write("mend.py", [sys.executable, "{file}"], SQLALCHEMY)
    both.are_equal_and_undone()


PSYCOPG = """
    import asyncio, os, psycopg
    from psycopg import sql

    url = os.environ["DATABASE_URL"]

    async def main():
        async with await psycopg.AsyncConnection.connect(url) as connection:
            async with connection.transaction():
                await connection.execute("UPDATE patients SET name = 'async' WHERE id = 1")
                try:
                    async with connection.transaction():
                        await connection.execute("DELETE FROM clinics")
                except psycopg.errors.ForeignKeyViolation:
                    await connection.execute("UPDATE patients SET phone = NULL WHERE id = 2")
            async with connection.pipeline():
                for number in range(3, 30):
                    await connection.execute("UPDATE patients SET name = %s WHERE id = %s", (f"piped {number}", number))
            async with connection.cursor() as cursor:
                async with cursor.copy("COPY visits (id, note, patient_id) FROM STDIN (FORMAT binary)") as copy:
                    copy.set_types(["int8", "text", "int8"])
                    for number in range(1000, 1200):
                        await copy.write_row((number, "copied", 1))
            try:
                async with connection.pipeline():
                    await connection.execute("UPDATE patients SET name = 'lost' WHERE id = 40")
                    await connection.execute("SELECT 1/0")
                    await connection.execute("UPDATE patients SET name = 'lost' WHERE id = 41")
            except psycopg.errors.DivisionByZero:
                await connection.rollback()

    asyncio.run(main())
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.executemany("UPDATE patients SET phone = %s WHERE id = %s", [(f"many {n}", n) for n in range(40, 50)])
            cursor.execute("SELECT id FROM patients ORDER BY id", binary=True)
            assert cursor.fetchmany(2) == [(1,), (2,)]
            with cursor.copy("COPY (SELECT id FROM visits WHERE id >= 1000) TO STDOUT") as copy:
                assert sum(1 for _ in copy.rows()) in (0, 200)
        with connection.pipeline():
            connection.execute("UPDATE patients SET version = 3 WHERE id = 50")
        with connection.transaction(), connection.cursor("named") as cursor:
            cursor.execute("SELECT id FROM patients ORDER BY id")
            assert cursor.fetchone() == (1,)
        raw = psycopg.RawCursor(connection)
        raw.execute("UPDATE patients SET name = $1 WHERE id = $2", ["raw", 51])
        client = psycopg.ClientCursor(connection)
        client.execute("UPDATE patients SET name = %s WHERE id = %s", ["it's \\\\ 'quoted'", 52])
        client.execute(sql.SQL("UPDATE {} SET name = {} WHERE id = 53").format(sql.Identifier("patients"), "literal"))
"""


def test_psycopg_with_async_pipelines_and_copy(both: Both) -> None:
    both.write("mend.py", [sys.executable, "{file}"], PSYCOPG)
    both.are_equal_and_undone()


PSQL = r"""
    \set ON_ERROR_STOP on
    \set who 'a \'quoted\' name'
    UPDATE patients SET name = :'who' WHERE id = 1;
    BEGIN;
    UPDATE patients SET name = 'two' WHERE id = 2;
    SAVEPOINT here;
    DELETE FROM visits;
    ROLLBACK TO here;
    COMMIT;
    BEGIN; UPDATE patients SET name = 'no'; ROLLBACK;
    \set ON_ERROR_STOP off
    INSERT INTO clinics (id, name) VALUES (1, 'taken');
    \set ON_ERROR_STOP on
    UPDATE patients SET name = 'three' WHERE id = 3 \; UPDATE patients SET phone = '3' WHERE id = 3;
    SELECT count(*) AS many FROM patients \gset
    UPDATE clinics SET patients_count = :many WHERE id = 1;
    SELECT format('UPDATE patients SET phone = %L WHERE id = %s', id, id) FROM patients WHERE id > 55 \gexec
    COPY visits (note, patient_id) FROM STDIN;
    from the file	7
    another	8
    \.
    \copy (SELECT 1) TO '/dev/null'
    \bind 'bound' 4
    UPDATE patients SET name = $1 WHERE id = $2;
    SET search_path = pg_catalog;
    UPDATE public.patients SET name = 'five' WHERE id = 5;
    RESET search_path;
    DO $$ BEGIN UPDATE patients SET name = 'six' WHERE id = 6; END $$;
    CREATE TEMP TABLE made AS SELECT 7 AS id; CREATE INDEX ON made (id); ANALYZE made;
    """


@needs("psql")
def test_psql_script(both: Both) -> None:
    text = PSQL.replace("    \\bind 'bound' 4\n    UPDATE patients SET name = $1 WHERE id = $2;\n", "")  # psql 16
    text = text.replace(" ANALYZE made;", "")
    both.write("mend.sh", ["sh", "{file}"], "psql -X -q -v VERBOSITY=terse <<'SQL'\n" + textwrap.dedent(text) + "SQL\n")
    both.are_equal_and_undone()


@needs("psql")
def test_several_commands_of_psql_are_sessions_of_their_own(both: Both) -> None:
    text = """
        set -e
        psql -X -q -c "SET search_path = pg_catalog" -c "CREATE TEMP TABLE made AS SELECT 1 AS id"
        psql -X -q -c "CREATE TEMP TABLE made AS SELECT 2 AS id" -c "UPDATE patients SET name = 'x' WHERE id IN (TABLE made)"
        psql -X -q -1 -f - <<'SQL'
        UPDATE patients SET name = 'y' WHERE id = 3;
        SQL
        psql -X -q -1 -c "UPDATE patients SET name = 'z'" -c "SELECT 1/0" 2>&1 || true
        PGOPTIONS="-c search_path=public" psql -X -q -c "UPDATE patients SET name = 'w' WHERE id = 4"
        """
    both.write("mend.sh", ["sh", "{file}"], textwrap.dedent(text))
    both.are_equal_and_undone()


@needs("pgbench")
@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench(both: Both, protocol: str) -> None:
    tables = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers")
    for one in (both.through, both.direct):
        initialise = ["pgbench", "-q", "-i", "-s", "1", "-I", "dtGp", one.application_url]
        subprocess.run(initialise, check=True, capture_output=True)
        one.as_application("DELETE FROM pgbench_accounts WHERE aid > 2000; DROP TABLE IF EXISTS unused")
    bench = f"exec pgbench -n -t 40 -c 1 -M {protocol} --random-seed=5 -f - <<'SQL'\n"
    bench += textwrap.dedent("""\
        \\set aid random(1, 2000)
        \\set delta random(-5000, 5000)
        BEGIN;
        UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
        SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
        UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = 1 + :aid % 10;
        UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
        END;
        UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
        SQL
        """)
    bench = bench.replace("-f - <<'SQL'", "-f /dev/stdin <<'SQL'")
    both.write("mend.sh", ["sh", "{file}"], bench)
    both.are_equal_and_undone(tables)
