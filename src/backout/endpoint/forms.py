"""The form of what programs ask most: one prepared statement, and its answer as it comes when all goes well.

Bind, Describe, Execute and Sync arrive together, and together with nothing else; so does the answer. Then both can be passed
on as they are, but for the statement's name and the transaction's status, and nothing has to be taken apart. Whatever is
not of exactly this form goes the long way (`extended.py`, `upstream.py`).

Not for: whether it may be passed on so (`fast_path.py`). Invariant: nothing is read behind `count`, where the buffer has
what came before.
Source: manual 55.2.3 (the messages), 55.7 (their formats).
"""

from __future__ import annotations

import struct

from backout.endpoint.frames import SYNC

_LENGTH = struct.Struct("!I")
_BIND, _ROW, _COMMAND_COMPLETE, _ROW_DESCRIPTION = ord("B"), ord("D"), ord("C"), ord("T")
_DESCRIBED, _EXECUTED = b"D\0\0\0\x06P\0", b"E\0\0\0\x09\0\0\0\0\0"  # the unnamed portal, all of its rows
_WITH_COLUMNS, _WITHOUT = _DESCRIBED + _EXECUTED + SYNC, _EXECUTED + SYNC
_WITH_COLUMNS_LENGTH, _WITHOUT_LENGTH = len(_WITH_COLUMNS), len(_WITHOUT)
_BOUND, _NO_DATA, _READY = b"2\0\0\0\x04", b"n\0\0\0\x04", b"Z\0\0\0\x05T"
_BOUND_END, _READY_LENGTH = len(_BOUND), len(_READY)
_NAME = 6  # where the statement's name begins, if the portal has none


def head_of(data: bytearray, count: int) -> bytes | None:
    """A Bind of the unnamed portal up to the end of the statement's name: with it begins what may be of this form.

    The unnamed statement is everybody's, and not meant.
    """
    if count < 12 or data[0] != _BIND or data[5]:
        return None
    end = data.find(0, _NAME, count)
    return bytes(data[:end]) if end > _NAME else None


def taken_apart(head: bytes) -> tuple[bytes, int]:
    """The statement's name, and where the Bind ends."""
    return head[_NAME:], int(_LENGTH.unpack_from(head, 1)[0]) + 1


def renamed(head: bytes, name: bytes) -> bytes:
    """The same head with another name, and the length that its Bind has then."""
    old, end = taken_apart(head)
    return b"B%s\0%s" % (_LENGTH.pack(end - 1 + len(name) - len(old)), name)


def describes(data: bytearray, count: int, bind_end: int) -> bool | None:
    """What stands behind a Bind: Execute and Sync, and whether its columns are asked for; None: anything else."""
    if count == bind_end + _WITH_COLUMNS_LENGTH and data.endswith(_WITH_COLUMNS, 0, count):
        return True
    return False if count == bind_end + _WITHOUT_LENGTH and data.endswith(_WITHOUT, 0, count) else None


def answered(data: bytearray, count: int, *, describes: bool) -> bytes | None:
    """The command tag, if the first `count` bytes are the whole answer of a statement that has gone well.

    Bound, described where that was asked, rows, complete, ready within the supervised transaction: nothing between them.
    """
    last = count - _READY_LENGTH
    if last < 11 or not data.startswith(_BOUND) or not data.endswith(_READY, last, count):
        return None
    at, unpack = _BOUND_END, _LENGTH.unpack_from
    if describes:
        if data[at] == _ROW_DESCRIPTION:
            at += unpack(data, at + 1)[0] + 1
        elif data.startswith(_NO_DATA, at):
            at += len(_NO_DATA)
        else:
            return None
    while at < last and data[at] == _ROW:
        at += unpack(data, at + 1)[0] + 1
    if at >= last or data[at] != _COMMAND_COMPLETE or at + unpack(data, at + 1)[0] + 1 != last or data[last - 1]:
        return None
    return bytes(data[at + 5 : last - 1])
