"""The hosts that a URL names, by its text alone.

Not for: choosing one (`engines`). Invariant: whatever a driver could be led to by the text is among them: the list in
the usual place, and `host` and `hostaddr` of the query.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

_USUAL_PORTS = {"postgresql": 5432, "postgres": 5432, "mariadb": 3306, "mysql": 3306}


def places_of(url: str) -> tuple[tuple[str, int], ...]:
    """(host, port) of each server that the URL names; empty for a file, and where it leaves the host to the driver."""
    parts = urlsplit(url)
    usual = _USUAL_PORTS.get(parts.scheme)
    return tuple(_places(parts.netloc, parts.query, usual)) if usual else ()


def hosts_of(url: str) -> tuple[str, ...]:
    """The hosts alone, each once, in lower case."""
    return tuple(dict.fromkeys(host.lower() for host, _ in places_of(url)))


def _places(netloc: str, query: str, usual: int) -> Iterator[tuple[str, int]]:
    for one in netloc.rpartition("@")[2].split(","):
        host, port = _apart(one.strip())
        if host:
            yield unquote(host), int(port) if port.isdigit() else usual
    given = dict(parse_qsl(query))
    ports = given.get("port", "").split(",")
    for name in ("host", "hostaddr"):
        for number, one in enumerate(given.get(name, "").split(",")):
            port = ports[number] if number < len(ports) else ports[-1]
            if one:
                yield one, int(port) if port.isdigit() else usual


def _apart(place: str) -> tuple[str, str]:
    """`host:port`, `[::1]:port` or either without the port."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = place.partition(":")
    return host, port
