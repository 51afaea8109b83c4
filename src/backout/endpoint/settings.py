"""Settings of the clients, on a session that they share: each finds its own, and what is local ends with its transaction.

The server itself remembers the values, in settings of our own: what a rollback takes back of a SET, it takes back of
its memory as well. `backout.l_X` is the value of X before a SET LOCAL, `backout.d_X` before any client set it, and
`backout.c3_X` what client 3 had set when another got the session.

Not for: which settings may be set (`sql/reserved.py`). A SET inside of a function is not seen, and stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from backout.endpoint.pieces import Setting
from backout.endpoint.statements import decides_how_text_is_read, is_as_it_is
from backout.endpoint.upstream import Upstream
from backout.sql.reserved import setting_objection

_UNREADABLE = frozenset({"seed"})  # SHOW says "unavailable" (manual: SET, "SEED")
#: What a client says at log-in that is no setting, or is the run's to say.
_NO_SETTING = frozenset({"user", "database", "replication", "options", "application_name"})


class Settings:
    """Whose settings the session has."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._names: dict[int, set[str]] = {}
        self._holder = 0

    def before(self, client: int, changed: Iterable[Setting], local: set[str]) -> None:
        """Remember what a statement is about to change; `local` are the names that its transaction has to put back."""
        call = self._upstream.call
        for one in changed:
            if one.name in _UNREADABLE:
                continue
            if one.local:
                call("remember", f"backout.l_{one.name}", one.name)
                local.add(one.name)
                continue
            call("inherit", f"backout.d_{one.name}", f"backout.l_{one.name}")  # what it is now may be local
            call("remember", f"backout.d_{one.name}", one.name)
            self._names.setdefault(client, set()).add(one.name)
            if one.name in local:
                call("forget", f"backout.l_{one.name}")
                local.discard(one.name)

    def end(self, local: set[str]) -> None:
        """A client's transaction ends: what was local to it ends as well."""
        for name in sorted(local):
            self._upstream.call("recall", f"backout.l_{name}", name)
            self._upstream.call("forget", f"backout.l_{name}")
        local.clear()

    def reset(self, client: int) -> None:
        """RESET ALL of a client: all that it has set."""
        for name in sorted(self._names.get(client, ())):
            self._upstream.call("recall", f"backout.d_{name}", name)

    def lend(self, client: int) -> None:
        """Give the session to a client, outside of any client's transaction."""
        if client == self._holder:
            return
        mine, theirs = self._names.get(client, set()), self._names.get(self._holder, set())
        calls = [("keep", f"backout.c{self._holder}_{name}", name) for name in sorted(theirs)]
        calls += [("recall", f"backout.d_{name}", name) for name in sorted(theirs - mine)]
        calls += [("recall", f"backout.c{client}_{name}", name) for name in sorted(mine)]
        self._upstream.attempt(calls)
        self._holder = client

    def start(self, client: int, wanted: Mapping[str, str]) -> str | None:
        """Set what a client asked for at log-in; what the server says against it, or None."""
        calls = []
        for name, value in wanted.items():
            calls += [("remember", f"backout.d_{name}", name), ("set", name, value)]
        problem = self._upstream.attempt(calls)
        if problem is None:
            self._names.setdefault(client, set()).update(wanted)
        return problem

    def carried(self) -> tuple[Mapping[str, str], Collection[str]]:
        """What a transaction's end would take along: what the session has set now, with what remembers it; all memory."""
        own = {name: f"backout.d_{name}" for name in sorted(self._names.get(self._holder, ()))}
        known = {name for names in self._names.values() for name in names}
        kept = {f"backout.c{client}_{name}" for client, names in self._names.items() for name in names}
        return own, sorted({f"backout.d_{name}" for name in known} | kept)

    def leave(self, client: int) -> None:
        """A client has gone: nothing of it stays. Outside of any client's transaction."""
        names = self._names.pop(client, set())
        if self._holder == client:
            self._upstream.attempt([("recall", f"backout.d_{name}", name) for name in sorted(names)])
            self._holder = 0


def at_log_in(said: Mapping[bytes, bytes]) -> tuple[dict[str, str], str | None]:
    """The settings in a client's first message, and what is against them (manual 55.7, StartupMessage)."""
    wanted: dict[str, str] = {}
    for name, value in [*_options(said.get(b"options", b"")), *said.items()]:
        key, text = name.decode(errors="replace").lower().replace("-", "_"), value.decode(errors="replace")
        if key in _NO_SETTING or not key or key.startswith("_pq_."):
            continue
        if decides_how_text_is_read(key):
            if not is_as_it_is(key, text):
                return {}, f'setting "{key}" changes how statements are read, and may not be "{text}" here'
            continue
        objection = setting_objection(key)
        if objection is not None:
            return {}, objection.reason
        wanted[key] = text
    return wanted, None


def _options(text: bytes) -> list[tuple[bytes, bytes]]:
    """`-c name=value` and `--name=value`; a backslash escapes a space (manual 32.1.2, "options")."""
    words = text.replace(b"\\\\", b"\1").replace(b"\\ ", b"\2").split()
    found = []
    after_c = False
    for raw in words:
        word = raw.replace(b"\2", b" ").replace(b"\1", b"\\")
        if after_c or word.startswith((b"--", b"-c")):
            if word == b"-c":
                after_c = True
                continue
            name, _, value = (word if after_c else word[2:]).partition(b"=")
            found.append((name, value))
        else:
            found.append((b"options", word))
        after_c = False
    return found
