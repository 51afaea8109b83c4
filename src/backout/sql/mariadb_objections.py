"""What a change on MariaDB may not say, and why: verbs, settings, functions, tables, and words in bodies of routines.

Not for: what a statement writes (`mariadb_facts`). Invariant: each entry has a reason and a way out.
Source: MariaDB manual, "SQL statements That Cause an Implicit Commit".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backout.sql.model import Objection
from backout.sql.tokens import Token, TokenKind

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = ("it changes the schema, which commits at once and cannot be rolled back", "use a schema migration")
_TRANSACTION = ("a change may not control the transaction",
                "leave it out: backout begins, commits and rolls back the one transaction of the run")  # fmt: skip
_ADMINISTRATION = ("it is administration, which commits at once", "do it by hand, outside of a change")
_DYNAMIC = ("it runs text as a statement, which cannot be read beforehand", "write the statement itself")
_CLIENT = ("it is a command of the mysql client, not of the server", "leave it out: one statement ends at its ;")
_LOCKS = ("it commits the transaction at once", "leave it out: rows are locked by the statements themselves")
_FILES = ("it reads or writes files", "put the data into the change file")
_UNSEEN = ("what it does cannot be followed", "write it as plain INSERT, UPDATE and DELETE")

_REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("ALTER", "RENAME", "TRUNCATE"), SCHEMA),
    **dict.fromkeys(("BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "XA", "END"), _TRANSACTION),
    **dict.fromkeys(("LOCK", "UNLOCK", "FLUSH"), _LOCKS),
    **dict.fromkeys(
        ("ANALYZE", "OPTIMIZE", "REPAIR", "CHECK", "CACHE", "RESET", "PURGE", "KILL", "GRANT", "REVOKE", "INSTALL",
         "UNINSTALL", "CHANGE", "STOP", "BACKUP", "SHUTDOWN", "BINLOG", "CHECKSUM"),
        _ADMINISTRATION,
    ),
    **dict.fromkeys(("PREPARE", "EXECUTE", "DEALLOCATE"), _DYNAMIC),
    **dict.fromkeys(("DELIMITER", "SOURCE"), _CLIENT),
    "LOAD": _FILES,
    "USE": ("names after it would mean other tables", "write the database before each table"),
    "HANDLER": _UNSEEN,
    **dict.fromkeys(("SIGNAL", "RESIGNAL", "GET", "IF", "LOOP", "WHILE", "REPEAT", "CASE", "DECLARE", "FOR"), _UNSEEN),
    "HELP": _CLIENT,
}  # fmt: skip

OWN_SCHEMAS = frozenset({"backout", "rescue"})
SYSTEM_SCHEMAS = frozenset({"mysql", "information_schema", "performance_schema", "sys"})

# Settings of the session that change neither the transaction, nor what is captured, nor how text is read.
_HARMLESS = re.compile(
    r"(group_concat_max_len|max_recursive_iterations|cte_max_recursion_depth|div_precision_increment|lc_time_names|"
    r"week_format|default_week_format|sort_buffer_size|join_buffer_size|tmp_table_size|max_heap_table_size|"
    r"optimizer_\w+|max_statement_time|time_zone|timestamp|last_insert_id|insert_id|rand_seed[12]|old_mode|"
    r"sql_safe_updates|max_join_size|sql_big_selects|max_sort_length|net_(read|write)_timeout)"
)
_SETTINGS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("autocommit", "completion_type", "tx_isolation", "transaction_isolation", "tx_read_only",
                     "transaction_read_only", "transaction"), _TRANSACTION),
    **dict.fromkeys(("foreign_key_checks", "unique_checks", "check_constraint_checks"),
                    ("it switches constraints off", "write the change so that they hold")),
    "sql_mode": ("it changes how the rest of the file is read, and what the server checks",
                 "leave it out: the run is strict, with ordinary quotes"),
    **dict.fromkeys(("names", "character", "charset", "character_set_client", "character_set_connection",
                     "collation_connection", "character_set_results"),
                    ("it changes how the rest of the file is read", "save the file as UTF-8")),
    **dict.fromkeys(("sql_log_bin", "binlog_format", "gtid_domain_id", "gtid_seq_no", "server_id", "skip_replication"),
                    ("it changes what replicas are told", "leave it out")),
    **dict.fromkeys(("role", "password", "default"), ("it changes who the change runs as", "leave it out")),
    **dict.fromkeys(("system_versioning_alter_history", "system_versioning_insert_history"),
                    ("it writes the history of rows", "leave it out")),
}  # fmt: skip

_FUNCTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("get_lock", "release_lock", "release_all_locks"),
                    ("user locks are not part of the transaction; backout's own could be let go", "leave it out")),
    "load_file": _FILES,
    **dict.fromkeys(("setval",), ("sequences are not transactional: it takes effect even in a ghost run",
                                  "insert with NEXT VALUE FOR, or set it by hand")),
    **dict.fromkeys(("sleep", "benchmark"), ("it holds the rows locked for nothing", "leave it out")),
    **dict.fromkeys(("master_pos_wait", "master_gtid_wait"), ("it waits for a replica", "leave it out")),
    **dict.fromkeys(("sys_exec", "sys_eval", "sys_set"), ("it runs a program of the server's machine", "leave it out")),
}  # fmt: skip


def verb_objection(tokens: Sequence[Token]) -> Objection | None:
    """Return why a statement that begins so may not run, or None where its first word is not refused."""
    found = _REFUSED.get(tokens[0].text.upper()) if tokens[0].kind is TokenKind.WORD else None
    return Objection(*found) if found else None


def hidden_objection(tokens: Sequence[Token]) -> Objection | None:
    """What an otherwise allowed statement may not contain: a way out of the server, or settings for one statement."""
    for index, token in enumerate(tokens[:-1]):
        following = tokens[index + 1]
        if token.is_word("INTO") and following.is_word("OUTFILE", "DUMPFILE"):
            return Objection(*_FILES)
    return None


def setting_objection(tokens: Sequence[Token]) -> Objection | None:
    """Return why `SET <tokens>` may not run, or None. User variables (`@name`) and a few settings may be set."""
    if tokens and tokens[0].is_word("STATEMENT"):
        return Objection("SET STATEMENT changes settings for what follows it", "write the statement alone")
    at_name, scope, depth = True, "", 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            at_name, scope = True, ""
        elif at_name and token.is_word("SESSION", "LOCAL", "GLOBAL", "PERSIST", "PERSIST_ONLY"):
            scope = token.text.upper()
        elif at_name:
            at_name = False
            objection = _one_setting(token, scope)
            if objection is not None:
                return objection
    return None


def _one_setting(token: Token, scope: str) -> Objection | None:
    text = token.text.lower()
    if token.kind is TokenKind.USER_VARIABLE and not text.startswith("@@"):
        return None
    scope = "GLOBAL" if text.startswith("@@global.") else scope
    name = re.sub(r"^@@((session|local|global)\.)?", "", text).strip("`")
    if scope in ("GLOBAL", "PERSIST", "PERSIST_ONLY"):
        return Objection(f'setting "{name}" is set for the whole server, which is not undone', "do it by hand")
    if name in _SETTINGS:
        reason, hint = _SETTINGS[name]
        return Objection(f'setting "{name}" may not be set: {reason}', hint)
    if _HARMLESS.fullmatch(name):
        return None
    return Objection(f'setting "{name}" is not one that a change may set', "leave it out")


def function_objection(name: str) -> Objection | None:
    """Return why a change may not call the function `name` (lower-case, qualified if written so), or None."""
    if name in _FUNCTIONS:
        reason, hint = _FUNCTIONS[name]
        return Objection(f'function "{name}" may not be called: {reason}', hint)
    return None


def table_objection(name: tuple[str | None, str]) -> Objection | None:
    """Return why a change may not name this table, or None."""
    schema = (name[0] or "").lower()
    if schema in OWN_SCHEMAS:
        return Objection(f'database "{name[0]}" is backout\'s own: a change may not name "{name[0]}.{name[1]}"',
                         "use the verbs: backout show, backout undo, backout clean")  # fmt: skip
    if schema in SYSTEM_SCHEMAS and schema != "information_schema":
        return Objection(f'"{name[0]}.{name[1]}" belongs to the server: writes to it cannot be undone',
                         "use the statements for administration, outside of a change")  # fmt: skip
    return None


# In the body of a trigger, function or procedure: what would end the transaction, or cannot be read.
_BODY_REFUSED = {
    **dict.fromkeys(
        ("COMMIT", "ROLLBACK", "SAVEPOINT", "TRUNCATE", "GRANT", "REVOKE", "FLUSH", "KILL"), "ends or alters"
    ),
    **dict.fromkeys(("PREPARE", "EXECUTE"), "dynamic"),
}
_BODY_DDL = re.compile(r"(CREATE|ALTER|DROP|RENAME|ANALYZE|OPTIMIZE|REPAIR)")
_BODY_OBJECTS = (
    "TABLE", "INDEX", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "DATABASE", "SCHEMA", "USER", "ROLE", "SEQUENCE",
    "EVENT", "SERVER", "UNIQUE", "OR", "DEFINER", "PACKAGE", "ONLINE", "OFFLINE", "IGNORE", "NO_WRITE_TO_BINLOG", "LOCAL",
    "FULLTEXT", "SPATIAL",
)  # fmt: skip


def body_objection(tokens: Sequence[Token]) -> str | None:
    """Return what the body of a routine contains that no run can allow, or None. Too careful rather than not enough."""
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else token
        word = token.text.upper() if token.kind is TokenKind.WORD else ""
        previous = tokens[index - 1].text if index else ";"
        if word in _BODY_REFUSED and previous != ".":
            return f"{word}, which " + (
                "runs text that cannot be read"
                if _BODY_REFUSED[word] == "dynamic"
                else "ends or alters the transaction"
            )
        if word == "START" and following.is_word("TRANSACTION"):
            return "START TRANSACTION, which commits"
        if word in ("LOCK", "UNLOCK") and following.is_word("TABLE", "TABLES"):
            return "LOCK TABLES, which commits"
        if word == "SET" and _sets_refused(tokens[index + 1 :]):
            return "a SET of a setting that a run has to own"
        if word and _BODY_DDL.fullmatch(word) and following.is_word(*_BODY_OBJECTS):
            return f"{word} {following.text.upper()}, which commits"
        if following.text == "(" and function_objection(token.text.lower()):
            return f'a call of "{token.text.lower()}"'
    return None


def _sets_refused(tokens: Sequence[Token]) -> bool:
    for token in tokens:
        if token.text == ";":
            return False
        name = re.sub(r"^@@((session|local|global)\.)?", "", token.text.lower()).strip("`")
        if name in _SETTINGS and name not in ("default", "role", "password", "names", "character", "transaction"):
            return True
    return False
