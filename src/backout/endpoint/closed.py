"""Start a command in a network of its own, in which there is nothing but the endpoint (Linux).

Run as a program, before the command, by its path and with the standard library alone: `closed.py FD PORT COMMAND …`. It
leaves the network (and, without root's rights, the user namespace), makes the listening socket on the new loopback,
hands it through FD to the endpoint, and becomes the command. A socket stays in the network that it was made in,
whoever holds it (man 7 network_namespaces): nothing has to be forwarded. Sockets with a path, such as that of a
database on this machine, are not part of a network and can still be reached.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import struct
import sys

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET (linux/sched.h)
_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS (linux/sockios.h), IFF_UP (linux/if.h)
WORD = b"closed"


def leave() -> None:
    """Into a network without anything but loopback. Raises OSError where the kernel or its settings forbid it."""
    user, group = os.getuid(), os.getgid()
    try:
        _unshare(_NEW_NET)
    except PermissionError:
        _unshare(_NEW_USER | _NEW_NET)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123  no imports beyond need
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """See the module; `PORT` 0 only tries it."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    port, command = int(sys.argv[2]), sys.argv[3:]
    try:
        leave()
        listening = socket.create_server(("127.0.0.1", port))
        socket.send_fds(channel, [WORD], [listening.fileno()])
        listening.close()
        if not port:
            return
        channel.set_inheritable(False)  # it closes when the command has begun
        os.execvp(command[0], command)  # noqa: S606  the command is what the user wants to run
    except OSError as error:
        channel.sendall((error.strerror or "unknown error").lower().encode())
        sys.exit(127)


def received(channel: socket.socket) -> socket.socket:
    """The listening socket from the other end. Raises OSError with the reason why there is none."""
    data, descriptors, _, _ = socket.recv_fds(channel, 1024, 1)
    if data != WORD or not descriptors:
        raise OSError(0, data.decode(errors="replace") or "it ended before it began")
    return socket.socket(fileno=array.array("i", descriptors)[0])


if __name__ == "__main__":
    main()
