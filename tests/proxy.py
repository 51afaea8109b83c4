"""A TCP proxy between a client and a server, which can cut the cable at a chosen message."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Cut = Literal["before the server has it", "before the client has the answer"]


@dataclass
class Proxy:
    """Passes bytes on between clients and `port`. Cuts the connection that said `caller` when it sends `message`.

    With `for_good` nobody can connect any more after the cut.
    """

    port: int
    caller: bytes
    message: bytes
    cut: Cut
    for_good: bool = False
    listen_on: int = 0  # 0: any port that is free
    has_cut: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.listen_on))
        self.own_port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._open):
            _close(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.for_good and self.has_cut.is_set():
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.port))
            self._open += [client, server]
            pair = _Pair(self, client, server)
            threading.Thread(target=pair.to_server, daemon=True).start()
            threading.Thread(target=pair.to_client, daemon=True).start()


@dataclass
class _Pair:
    """One connection: what it has said so far decides whether it is the one to cut."""

    proxy: Proxy
    client: socket.socket
    server: socket.socket
    is_caller: bool = False
    armed: bool = False

    def to_server(self) -> None:
        with suppress(OSError):
            while block := self.client.recv(65536):
                self.is_caller = self.is_caller or self.proxy.caller in block
                if self.is_caller and self.proxy.message in block and not self.proxy.has_cut.is_set():
                    if self.proxy.cut == "before the server has it":
                        break
                    self.armed = True
                self.server.sendall(block)
        self._hang_up()

    def to_client(self) -> None:
        with suppress(OSError):
            while block := self.server.recv(65536):
                if self.armed:
                    break
                self.client.sendall(block)
        self._hang_up()

    def _hang_up(self) -> None:
        if self.is_caller:
            self.proxy.has_cut.set()
        _close(self.client)
        _close(self.server)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def main() -> None:
    """`python proxy.py LISTEN_ON PORT`: pass everything on until the process is ended, as a port-forward does."""
    listen_on, port = (int(word) for word in sys.argv[1:3])
    nobody = b"\0 nobody says this \0"
    with Proxy(port, nobody, nobody, "before the server has it", listen_on=listen_on):
        print(f"Forwarding from 127.0.0.1:{listen_on} -> {port}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
