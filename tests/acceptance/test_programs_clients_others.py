"""Clients that have nothing of libpq's, and one at which a person types: asyncpg, node-postgres, psql at a terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.clients import Both, needs

ASYNCPG = """
    import asyncio, datetime, os
    import asyncpg

    class Rollback(Exception):
        pass

    async def main():
        connection = await asyncpg.connect(os.environ["DATABASE_URL"])
        rename = await connection.prepare("UPDATE patients SET name = $2 WHERE id = $1 RETURNING name")
        assert [a.name for a in rename.get_attributes()] == ["name"]
        for number in range(1, 8):
            assert await rename.fetchval(number, f"prepared {number}") == f"prepared {number}"
        await connection.executemany(
            "UPDATE patients SET phone = $1 WHERE id = $2", [(f"many {n}", n) for n in range(8, 20)]
        )
        async with connection.transaction():
            await connection.execute("UPDATE patients SET version = 5 WHERE id = 20")
            try:
                async with connection.transaction():  # a savepoint
                    await connection.execute("DELETE FROM visits")
                    raise Rollback
            except Rollback:
                pass
            try:
                async with connection.transaction():
                    await connection.execute("INSERT INTO clinics (id, name) VALUES (1, 'taken')")
            except asyncpg.UniqueViolationError:
                await connection.execute("UPDATE patients SET name = 'after' WHERE id = 21")
        try:
            async with connection.transaction():
                await connection.execute("DELETE FROM visits")
                await connection.execute("SELECT 1/0")
        except asyncpg.DivisionByZeroError:
            pass
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO visits (note, patient_id) VALUES ('nobody', 7777)")
        except asyncpg.ForeignKeyViolationError:  # of a constraint that is checked at COMMIT
            await connection.execute("UPDATE patients SET name = 'checked' WHERE id = 22")
        try:
            await connection.execute("UPDATE patients SET name = 'lost' WHERE id = 23; SELECT 1/0")
        except asyncpg.DivisionByZeroError:
            pass
        at = datetime.datetime(2026, 11, 2, tzinfo=datetime.timezone.utc)
        copied = await connection.copy_records_to_table(
            "visits", records=[(f"copied {n}", n % 60 + 1, at) for n in range(500)], columns=["note", "patient_id", "at"]
        )
        assert copied == "COPY 500"
        try:
            await connection.copy_records_to_table("clinics", records=[(90, "new"), (1, "taken")], columns=["id", "name"])
        except asyncpg.UniqueViolationError:
            await connection.execute("UPDATE patients SET name = 'copied' WHERE id = 25")
        async with connection.transaction():
            seen = 0
            async for row in connection.cursor("SELECT id, at FROM visits WHERE note LIKE 'copied%'", prefetch=50):
                assert row["at"] == at
                seen += 1
            assert seen == 500
            cursor = await connection.cursor("SELECT id FROM patients ORDER BY id")
            assert [row["id"] for row in await cursor.fetch(3)] == [1, 2, 3]
            await cursor.forward(5)
            assert (await cursor.fetchrow())["id"] == 9
        row = await connection.fetchrow("SELECT ARRAY[1, NULL, 3] AS a, '{\\"x\\": 1}'::jsonb AS j, 1.50::numeric AS n")
        assert (row["a"], row["j"], str(row["n"])) == ([1, None, 3], '{"x": 1}', "1.50")
        try:
            await connection.execute("SELECT pg_sleep(60)", timeout=0.3)  # cancelled by a request of its own
        except asyncio.TimeoutError:
            await connection.execute("UPDATE patients SET name = 'cancelled' WHERE id = 24")
        await connection.reset()
        await connection.close()
        async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=3) as pool:
            await asyncio.gather(*(
                pool.execute("UPDATE patients SET phone = $1 WHERE id = $2", f"pooled {n}", n) for n in range(30, 40)
            ))
            async with pool.acquire() as one, one.transaction():
                await one.execute("UPDATE clinics SET name = 'pooled' WHERE id = 5")

    asyncio.run(main())
"""


def test_asyncpg(both: Both) -> None:
    both.write("mend.py", [sys.executable, "{file}"], ASYNCPG)
    both.are_equal_and_undone()


#: Where Debian's packages put modules, which a node that is not Debian's does not look through; and where
#: scripts/setup.sh unpacks them beside such a node.
NODE_PATHS = ("/usr/share/nodejs", str(Path(__file__).parents[2] / "build" / "node-pg" / "usr" / "share" / "nodejs"))
NODE_PATH = ":".join(filter(None, [os.environ.get("NODE_PATH"), *NODE_PATHS]))


def has_node_postgres() -> bool:
    node = shutil.which("node")
    asked = [node or "node", "-e", 'require("pg")']
    variables = {**os.environ, "NODE_PATH": NODE_PATH}
    return node is not None and subprocess.run(asked, env=variables, capture_output=True, check=False).returncode == 0


NODE = r"""
    const { Client, Pool } = require("pg");
    const assert = require("assert");

    async function main() {
      const client = new Client({ connectionString: process.env.DATABASE_URL });
      await client.connect();
      const found = await client.query("SELECT id, name FROM patients WHERE id = ANY($1::bigint[]) ORDER BY id", [[1, 2]]);
      assert.deepStrictEqual(found.rows.map((row) => row.name), ["patient 1", "patient 2"]);
      const rename = { name: "rename", text: "UPDATE patients SET name = $1 WHERE id = $2" };
      for (let id = 1; id < 8; id++) await client.query({ ...rename, values: [`node ${id}`, id] });
      await client.query("BEGIN");
      await client.query("UPDATE patients SET version = 3 WHERE id = $1", [8]);
      await client.query("SAVEPOINT here");
      await assert.rejects(client.query("INSERT INTO clinics (id, name) VALUES (1, 'taken')"), { code: "23505" });
      await assert.rejects(client.query("SELECT 1"), { code: "25P02" });
      await client.query("ROLLBACK TO here");
      await client.query("UPDATE patients SET name = 'after' WHERE id = 9");
      await client.query("COMMIT");
      await client.query("BEGIN");
      await client.query("DELETE FROM visits");
      await assert.rejects(client.query("SELECT 1/0"), { code: "22012" });
      assert.strictEqual((await client.query("COMMIT")).command, "ROLLBACK");
      await client.query("BEGIN");
      await client.query("INSERT INTO visits (note, patient_id) VALUES ('nobody', 7777)");
      await assert.rejects(client.query("COMMIT"), { code: "23503" });
      await assert.rejects(client.query("UPDATE patients SET name = 'lost' WHERE id = 10; SELECT 1/0"), { code: "22012" });
      const both = await client.query("UPDATE patients SET name = 'x' WHERE id = 11; SELECT count(*) AS many FROM patients");
      assert.deepStrictEqual(both.map((one) => one.rowCount), [1, 1]);
      const made = await client.query(
        "INSERT INTO visits (note, patient_id, at) VALUES ($1, $2, $3) RETURNING id, at",
        ["it's \\ \"quoted\"", 12, new Date(Date.UTC(2026, 10, 2))]
      );
      assert.strictEqual(made.rows[0].at.toISOString(), "2026-11-02T00:00:00.000Z");
      const notices = [];
      client.on("notice", (one) => notices.push(one.message));
      await client.query("DO $$ BEGIN RAISE NOTICE 'heard'; UPDATE patients SET name = 'do' WHERE id = 13; END $$");
      assert.deepStrictEqual(notices, ["heard"]);
      await client.end();

      const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 3 });
      await Promise.all(
        [...Array(10).keys()].map((n) => pool.query("UPDATE patients SET phone = $1 WHERE id = $2", [`pooled ${n}`, 30 + n]))
      );
      const one = await pool.connect();
      try {
        await one.query("BEGIN");
        await one.query("UPDATE clinics SET name = 'pooled' WHERE id = 5");
        await one.query("COMMIT");
      } finally {
        one.release();
      }
      await pool.end();
    }

    main().catch((error) => {
      console.error(error);
      process.exit(1);
    });
"""


@pytest.mark.skipif(not has_node_postgres(), reason="NOT TESTED: node and node-pg are not installed")
def test_node_postgres(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_PATH", NODE_PATH)
    both.write("mend.js", ["node", "{file}"], NODE)
    both.are_equal_and_undone()


PSQL = r"""
    import os, pty, signal, sys

    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("psql", ["psql", "-X", "-P", "pager=off"], {**os.environ, "TERM": "dumb", "PSQL_HISTORY": "/dev/null"})
    said = ""

    def until(words):
        global said
        while words not in said:
            said += os.read(terminal, 4096).decode()
        said = said[said.index(words) + len(words):]

    def types(line, answer, prompt="=> "):
        os.write(terminal, line.encode() + b"\n")
        until(answer)
        until(prompt)

    until("=> ")
    types("UPDATE patients SET name = 'typed' WHERE id = 1;", "UPDATE 1")
    types("BEGIN;", "BEGIN", "=*> ")
    types("UPDATE patients SET name = 'and", "", "'*> ")
    types("over two lines' WHERE id = 2;", "UPDATE 1", "=*> ")
    types("SELECT 1/0;", "division by zero", "=!> ")
    types("UPDATE patients SET name = 'no';", "current transaction is aborted", "=!> ")
    types("COMMIT;", "ROLLBACK")
    types("BEGIN;", "BEGIN", "=*> ")
    types("\\set ON_ERROR_ROLLBACK interactive", "", "=*> ")
    types("SELECT 1/0;", "division by zero", "=*> ")
    types("UPDATE patients SET name = 'kept' WHERE id = 3;", "UPDATE 1", "=*> ")
    types("COMMIT;", "COMMIT")
    types("\\d patients", "patients_pkey")
    types("\\dt", "clinics")
    types("SELECT count(*) AS n FROM patients \\gset", "")
    types("UPDATE clinics SET patients_count = :n WHERE id = 1;", "UPDATE 1")
    os.write(terminal, b"SELECT pg_sleep(60);\n")
    until("pg_sleep(60);")
    import time
    time.sleep(0.5)
    os.write(terminal, b"\x03")
    until("canceling statement due to user request")
    until("=> ")
    types("UPDATE patients SET name = 'cancelled' WHERE id = 4;", "UPDATE 1")
    types("\\copy visits (note, patient_id) FROM STDIN", "", ">> ")
    types("typed in\t5", "", ">> ")
    types("\\.", "COPY 1")
    os.write(terminal, b"\\q\n")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.exit(status)
"""


@needs("psql")
def test_psql_at_a_terminal(both: Both) -> None:
    both.write("mend.py", [sys.executable, "{file}"], PSQL)
    both.are_equal_and_undone()
