"""Statements of ours, which are prepared on the lent session once and put in between the messages of clients.

Not for: when they are sent (`upstream.py`). Invariant: they mean the same whatever a client has set.
"""

from __future__ import annotations

#: What we prepare on the session, under names that no client has. Names are qualified, operators left out: the client's
#: search_path may put anything before pg_catalog.
CONTROLS = {
    "guard": "SAVEPOINT _backout_guard",
    "release": "RELEASE SAVEPOINT _backout_guard",
    "back": "ROLLBACK TO SAVEPOINT _backout_guard",
    "nothing": "SELECT 1",
    "fail": "SELECT pg_catalog.int4div(1, 0)",  # folded when it is planned: Bind fails, as the protocol's own errors do
    "check": "SET CONSTRAINTS ALL IMMEDIATE",
    "read_only": "SET LOCAL transaction_read_only = on",
    "remember": "SELECT pg_catalog.set_config($1::pg_catalog.text, pg_catalog.concat('=', "
    "pg_catalog.current_setting($2::pg_catalog.text, true)), true) "
    "WHERE pg_catalog.texteq(COALESCE(pg_catalog.current_setting($1, true), ''), '')",
    "keep": "SELECT pg_catalog.set_config($1::pg_catalog.text, pg_catalog.concat('=', "
    "pg_catalog.current_setting($2::pg_catalog.text, true)), true)",
    "recall": "SELECT pg_catalog.set_config($2::pg_catalog.text, pg_catalog.substr("
    "pg_catalog.current_setting($1::pg_catalog.text, true), 2), true) "
    "WHERE pg_catalog.textne(COALESCE(pg_catalog.current_setting($1, true), ''), '')",
    "inherit": "SELECT pg_catalog.set_config($1::pg_catalog.text, "
    "pg_catalog.current_setting($2::pg_catalog.text, true), true) "
    "WHERE pg_catalog.texteq(COALESCE(pg_catalog.current_setting($1, true), ''), '') "
    "AND pg_catalog.textne(COALESCE(pg_catalog.current_setting($2, true), ''), '')",
    "forget": "SELECT pg_catalog.set_config($1::pg_catalog.text, '', true)",
    "set": "SELECT pg_catalog.set_config($1::pg_catalog.text, $2::pg_catalog.text, false)",
}
