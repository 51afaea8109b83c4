"""How SQLite writes what the engines write differently."""

from __future__ import annotations

from conformance.target import Dialect

#: A column converts what fits its affinity and stores everything else as it is (https://sqlite.org/datatype3.html).
TYPES: dict[str, list[str]] = {
    "INTEGER": ["0", "-9223372036854775808", "9223372036854775807", "'not a number'", "1.5", "NULL"],
    "TEXT": ["''", "'a'", "'a\"b,('", "'é'", "'NULL'", "'a' || char(0) || 'b'", "1", "NULL", "printf('%.3000c', 'x')"],
    "REAL": ["0", "0.1 + 0.2", "1e308 * 10", "-0.0", "5e-324", "NULL"],
    "NUMERIC(10, 2)": ["1", "1.50", "'1.50'", "NULL"],
    "BLOB": ["x'00ff'", "x''", "'text'", "zeroblob(3000)", "1", "1.0", "NULL"],
    "": ["1", "1.0", "'1'", "x'31'", "NULL"],
    "BOOLEAN": ["true", "false", "NULL"],
    "DATE": ["'2024-02-29'", "'0000-00-00'", "NULL"],
    "JSON": ["""'{"a": 1}'""", """'{"a":1}'""", "NULL"],
}

_AUDIT = (
    "CREATE TRIGGER audit_{event}_{{table}} AFTER {event} ON {{table}} "
    "BEGIN INSERT INTO {{audit}} (what) VALUES ('{event}'); END"
)

SQLITE = Dialect(
    quote='"',
    mark="?",
    moment="TEXT",
    amount="NUMERIC",
    coin="random() % 2 = 0",
    delete_using="DELETE FROM {table} WHERE EXISTS (SELECT 1 FROM {other} WHERE {where})",
    update_from="UPDATE {table} SET {sets} FROM {other} WHERE {where}",
    upsert="ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}",
    ignore="INSERT OR IGNORE INTO {into}",
    stamp=(
        "CREATE TRIGGER stamp_{table} AFTER UPDATE ON {table} WHEN NEW.updated_at IS OLD.updated_at "
        "BEGIN UPDATE {table} SET updated_at = strftime('%Y-%m-%d %H:%M:%f') WHERE id = NEW.id; END",
    ),
    audit=tuple(_AUDIT.format(event=event) for event in ("INSERT", "UPDATE", "DELETE")),
    view=(
        "CREATE VIEW {view} AS SELECT id, {column} FROM {table}",
        "CREATE TRIGGER {view}_update INSTEAD OF UPDATE ON {view} "
        "BEGIN UPDATE {table} SET {column} = NEW.{column} WHERE id = OLD.id; END",
    ),
    types=TYPES,
    counted="id INTEGER PRIMARY KEY AUTOINCREMENT",
    doubled="AS (a * 2) STORED",
)
