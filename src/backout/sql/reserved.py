"""The names that a change may not write to, touch or call, and why: schemas, settings and functions of PostgreSQL.

Not for: finding them in a statement (`postgres_objections`). Invariant: each entry has a reason and a way out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backout.sql.model import Objection

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_SCHEMAS = frozenset({"backout", "rescue"})
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})

_OWNED_BY_RUN = "leave it out: the run sets it, and resets it at the end"
_NO_TRANSACTION_SETTING = "leave it out: backout begins the transaction and chooses its isolation"
_IDENTITY = "leave it out: backout sets the role from the environment's policy before the change begins"

_SETTINGS: dict[str, tuple[str, str]] = {
    "session_replication_role": ("turns triggers and foreign keys off", "write the change so that they may fire"),
    "row_security": ("changes which rows are visible to the capture", _OWNED_BY_RUN),
    "track_counts": ("switches off the counts that prove the capture complete", _OWNED_BY_RUN),
    "stats_fetch_consistency": ("changes the counts that prove the capture complete", _OWNED_BY_RUN),
    "event_triggers": ("switches off the trigger that sees changes of the schema", _OWNED_BY_RUN),
    "synchronous_commit": ("may report a commit that is lost in a crash", _OWNED_BY_RUN),
    "standard_conforming_strings": ("changes how the rest of the file is read", "use E'…' where a backslash escapes"),
    "client_encoding": ("changes how the rest of the file is read", "save the file as UTF-8"),
    "allow_system_table_mods": ("allows writes to the catalogue, which cannot be undone", "use a schema migration"),
    "ignore_system_indexes": ("changes how the catalogue is read", "leave it out"),
    "zero_damaged_pages": ("destroys data in damaged pages", "restore the table from a backup"),
    "role": ("changes who the change runs as", _IDENTITY),
    "session_authorization": ("changes who the change runs as", _IDENTITY),
}
_TRANSACTION_SETTING = re.compile(r"(default_)?transaction_(isolation|read_only|deferrable)|transaction( snapshot)?")

_GHOST_TOO = "it takes effect even when the run is rolled back, so also in a ghost run"
_OUTSIDE = "it takes effect outside the transaction and is not undone"
_LARGE_OBJECT = ("large objects are not captured", "keep the value in a bytea column, or change it outside backout")
_SERVER_FILE = ("it reaches the files of the server", "put the data into the change file")
_SERVER_CONTROL = (_OUTSIDE, "do it by hand, outside of a change")
_STATISTICS = ("it alters the counts that prove the capture complete", "leave it out")
_DBLINK = ("it writes through a connection of its own, which is not captured", "make a change for that database")

_FUNCTIONS: tuple[tuple[str, tuple[str, str]], ...] = (
    (r"setval", (f"sequences are not transactional: {_GHOST_TOO}", "insert with nextval(), or set it by hand")),
    (r"lo_(?!get$)\w+|loread|lowrite", _LARGE_OBJECT),
    (r"pg_notify", ("a notification cannot be taken back", "send it by hand after the run, or in a trigger")),
    (r"pg_(terminate|cancel)_backend", (f"it ends somebody's session: {_GHOST_TOO}", "do it by hand before the run")),
    (r"pg_(read_(binary_)?file|stat_file|ls_\w*dir\w*|file_\w+|current_logfile)", _SERVER_FILE),
    (r"pg_(reload_conf|rotate_logfile|promote|switch_wal|create_restore_point|backup_(start|stop))", _SERVER_CONTROL),
    (r"pg_(wal_replay_(pause|resume)|log_(backend|standby)_\w+|(sync|copy|drop|create)_\w*replication_slot)",
     _SERVER_CONTROL),
    (r"pg_(replication_\w+|logical_(emit_message|slot_\w+)|import_system_collations)", _SERVER_CONTROL),
    (r"pg_stat_(reset\w*|force_next_flush|clear_snapshot)|pg_(restore|clear)_\w+_stats", _STATISTICS),
)  # fmt: skip
# Extensions can be installed into any schema, so these are known by their bare name.
_EXTENSION_FUNCTIONS: tuple[tuple[str, tuple[str, str]], ...] = ((r"dblink\w*", _DBLINK),)


def setting_objection(name: str) -> Objection | None:
    """Return why a change may not set `name`, or None."""
    lowered = name.lower()
    if lowered in _SETTINGS:
        reason, hint = _SETTINGS[lowered]
        return Objection(f'setting "{lowered}" {reason}', hint)
    if _TRANSACTION_SETTING.fullmatch(lowered):
        return Objection(f'setting "{lowered}" belongs to the transaction, which is not the change\'s own',
                         _NO_TRANSACTION_SETTING)  # fmt: skip
    if lowered.split(".")[0] == "backout":
        return Objection(f'setting "{lowered}" is backout\'s own', "leave it out")
    return None


def function_objection(name: str) -> Objection | None:
    """Return why a change may not call the function `name` (lower-case, qualified if written so), or None."""
    schema, _, bare = name.rpartition(".")
    for pattern, (reason, hint) in _candidates(schema):
        if re.fullmatch(pattern, bare):
            return Objection(f'function "{name}" may not be called: {reason}', hint)
    return None


def _candidates(schema: str) -> Iterator[tuple[str, tuple[str, str]]]:
    yield from _EXTENSION_FUNCTIONS
    if schema in ("", "pg_catalog"):
        yield from _FUNCTIONS


def schema_objection(schema: str | None, table: str) -> Objection | None:
    """Return why a change may not write to this table, or None."""
    if schema in OWN_SCHEMAS:
        return Objection(f'schema "{schema}" is backout\'s own: a change may not write to "{schema}.{table}"',
                         "use the verbs: backout undo, backout clean")  # fmt: skip
    # pg_catalog is searched first, so that a bare name of it always means the catalogue.
    if schema in SYSTEM_SCHEMAS or (schema is None and table.startswith("pg_")):
        hint = "use a schema migration" if schema else "use a schema migration; if the table is yours, write its schema"
        return Objection(f'"{table}" belongs to the system catalogue: writes to it cannot be undone', hint)
    return None
