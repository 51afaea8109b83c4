"""How MariaDB writes what the engines write differently."""

from __future__ import annotations

from conformance.target import Dialect

TYPES: dict[str, list[str]] = {
    "INTEGER": ["0", "-2147483648", "2147483647", "NULL"],
    "BIGINT UNSIGNED": ["0", "18446744073709551615", "NULL"],
    "DECIMAL(20, 4)": ["1", "1.0001", "-9999999999999999.9999", "NULL"],
    "FLOAT": ["0", "0.1", "16777217", "-0.0", "NULL"],
    "DOUBLE": ["0", "0.1e0 + 0.2e0", "1.7976931348623157e308", "-0e0", "NULL"],
    "VARCHAR(60)": ["''", "'a'", "'A'", "'a '", "'a\"b,('", "'é'", "'NULL'", "'🦜'", "NULL"],
    "CHAR(4)": ["'a'", "'abcd'", "'É'", "NULL"],
    "TEXT": ["''", "repeat('x', 3000)", "'a\\0b'", "NULL"],
    "BLOB": ["x'00ff'", "''", "repeat(x'00', 3000)", "NULL"],
    "VARBINARY(20)": ["x'00'", "x'0000'", "''", "NULL"],
    "DATE": ["'2024-02-29'", "'0000-00-00'", "'9999-12-31'", "NULL"],
    "DATETIME(6)": ["'2024-02-29 12:00:00.123456'", "'0000-00-00 00:00:00'", "NULL"],
    "TIMESTAMP(6) NULL": ["'2024-02-29 12:00:00.123456'", "'2001-01-01 00:00:01'", "NULL"],
    "TIME(6)": ["'-838:59:59'", "'00:00:00.000001'", "NULL"],
    "YEAR": ["2024", "1901", "NULL"],
    "BIT(9)": ["b'101010101'", "b'0'", "NULL"],
    "BOOLEAN": ["true", "false", "NULL"],
    "ENUM('sad', 'so so', '')": ["'sad'", "'so so'", "''", "NULL"],
    "SET('a', 'b', 'c')": ["'a,c'", "''", "NULL"],
    "JSON": ["""'{"a": 1}'""", """'{"a":1}'""", "'null'", "NULL"],
    "VARCHAR(20) COLLATE utf8mb4_bin": ["'a'", "'A'", "'ä'", "NULL"],
    "VARCHAR(20) CHARACTER SET latin1": ["'ä'", "'a'", "NULL"],
}

_AUDIT = (
    "CREATE TRIGGER audit_{event}_{{table}} AFTER {event} ON {{table}} FOR EACH ROW "
    "INSERT INTO {{audit}} (what) VALUES ('{event}')"
)

ROUTINES = """
CREATE PROCEDURE restock() MODIFIES SQL DATA BEGIN
  INSERT INTO stock VALUES (9, 'new', 1); UPDATE stock SET amount = amount + 10; DELETE FROM stock WHERE id = 2; END;
CREATE FUNCTION sell(which INTEGER) RETURNS INTEGER MODIFIES SQL DATA BEGIN
  UPDATE stock SET amount = amount - 1 WHERE id = which; RETURN which; END;
"""
PARTITIONS = """
CREATE TABLE visit (id INTEGER, year INTEGER, note varchar(60), PRIMARY KEY (id, year)) PARTITION BY RANGE (year)
 (PARTITION early VALUES LESS THAN (2026), PARTITION late VALUES LESS THAN MAXVALUE);
"""

MARIADB = Dialect(
    quote="`",
    mark="%s",
    moment="DATETIME(6)",
    amount="DECIMAL",
    coin="rand() < 0.5",
    delete_using="DELETE {table} FROM {table} JOIN {other} ON {where}",
    update_from="UPDATE {table} JOIN {other} ON {where} SET {sets}",
    upsert="ON DUPLICATE KEY UPDATE {column} = VALUES({column})",
    ignore="INSERT IGNORE INTO {into}",
    stamp=("CREATE TRIGGER stamp_{table} BEFORE UPDATE ON {table} FOR EACH ROW SET NEW.updated_at = now(6)",),
    audit=tuple(_AUDIT.format(event=event) for event in ("INSERT", "UPDATE", "DELETE")),
    view=("CREATE VIEW {view} AS SELECT id, {column} FROM {table}",),
    types=TYPES,
    counted="id BIGINT AUTO_INCREMENT PRIMARY KEY",
    doubled="INTEGER GENERATED ALWAYS AS (a * 2) STORED",
    routines=ROUTINES,
    calls=("CALL restock();", "SELECT sell(1);"),
    partitioned=PARTITIONS,
)
