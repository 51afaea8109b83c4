"""Real SSH keys of made-up people, made by ssh-keygen where they are first asked for."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from backout.ledger.signing import NAMESPACE


@cache
def _made(name: str) -> Path:
    """One key for each name and test process: ssh-keygen takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="backout-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
    return path


def make_key(folder: Path, name: str) -> Path:
    """A private key of this name, with its public half beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = _made(name)
    shutil.copy2(made.with_name(f"{name}.pub"), folder)  # as ssh wants it: readable by the owner only
    return Path(shutil.copy2(made, folder / name))


def allow(file: Path, principals: str, key: Path, options: str = f'namespaces="{NAMESPACE}"') -> None:
    """Add the key's public half to a file of allowed signers."""
    public = Path(f"{key}.pub").read_text().strip()
    with file.open("a") as signers:
        signers.write(f"{principals} {options} {public}\n".replace("  ", " "))
