"""The text of a new change: a template that teaches by its comments.

Not for: writing the file. Invariant: what it returns becomes valid by replacing the example statement alone.
"""

from __future__ import annotations

import re
import unicodedata

from backout.sql.model import Dialect

_LONGEST_SLUG = 60  # rows of a run's list stay on one line of 80 columns

_METADATA = """\
/// change
title = {title}
# request = "https://tracker.example.org/1"     # the dated request of the product owner
# requested_by = "product-owner@example.org"
# author = "you@example.org"
dialect = "{dialect}"
data = "internal"                               # "phi" | "internal" | "public"
risk = ""                                       # what could happen if it goes wrong
mitigation = ""                                 # what makes that less likely, or smaller
backout = "generated"                           # from the rows that were touched; or the name of a file that says how
# [parameters]                                  # used as :name in statements and in @expect
# status = "closed"                             # the same everywhere
# cutoff = {{type = "date", per_environment = true}}
///
"""

_SQL = """\

-- No BEGIN or COMMIT: backout runs everything in one transaction, and takes it back when a check fails.

-- How many rows the next statement must report: a number, a range or a parameter.
-- @expect 1
UPDATE example SET status = 'closed' WHERE id = 4711;

-- The single value of the next query must be true before the commit.
-- @assert "the row is closed"
SELECT count(*) = 1 FROM example WHERE id = 4711 AND status = 'closed';

-- Further directives, each on a line of its own before its statement:
--   @pre "name", @post "name"   queries whose rows go into CSV files, before and after the change
--   @after "title"              a check that runs after the commit, on a fresh connection
--   @subset table by=key        with --subset the next statement, or check, is limited to some keys
"""

_PYTHON = '''\

# No commit or rollback: backout runs everything in one transaction, and takes it back when a check fails.


def apply(db):
    """Make the change; `db.execute` runs a statement and returns its result."""
    db.execute("UPDATE example SET status = 'closed' WHERE id = 4711")


def check(db):
    """Return whether the state is as it should be; it runs before the commit."""
    return True
'''


def template(title: str, dialect: Dialect = Dialect.POSTGRES, language: str = "sql") -> str:
    """Return the text of a new change with this title; `language` is "sql" or "python"."""
    prefix, body = ("#", _PYTHON) if language == "python" else ("--", _SQL)
    metadata = _METADATA.format(title=_toml_string(title), dialect=dialect.value)
    return "".join(f"{prefix} {line}\n" for line in metadata.rstrip("\n").split("\n")) + body


def slug(title: str) -> str:
    """Return a file's stem for a title: lower-case ASCII letters, digits and hyphens; "change" when none is left."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return words[:_LONGEST_SLUG].rstrip("-") or "change"


def _toml_string(text: str) -> str:
    escaped = "".join(
        f"\\u{ord(char):04x}" if ord(char) < 32 or ord(char) == 127 else f"\\{char}" if char in '\\"' else char
        for char in text
    )
    return f'"{escaped}"'
