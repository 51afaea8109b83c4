"""`python -m bench.ledger [ENTRIES]`: what the ledger costs a run, and how fast an audit is. Prints; writes no page.

A ledger of an SQLite file with that many signed statements of other changes; the policy "team", with five statements of
the change itself, each verified by ssh-keygen. The two numbers to hold: a run's gates and ledger without ssh-keygen
≤ 50 ms at 10,000 entries; an audit without signatures ≥ 20,000 entries/s.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

from backout.ledger.entry import first_break
from backout.ledger.signing import NAMESPACE, Signer, sign
from backout.ledger.statement import Kind, Signed, Statement
from backout.ledger.store import Ledger
from backout.project.audit import audit
from backout.project.book import Book
from backout.project.config_file import parse_config
from backout.project.subject import Subject

ROUNDS = 7


def main() -> None:
    """Make the ledger, measure, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text()
        (folder / "allowed_signers").write_text(f'ann@example.org namespaces="{NAMESPACE}" {public}')
        config = parse_config('[environments.production]\nurl = "sqlite:p.db"\n', folder / "backout.toml")
        book = Book(config)
        fill(book.ledger, key, count)
        measure(book, count)
        book.ledger.close()


def fill(ledger: Ledger, key: Path, count: int) -> None:
    """Many statements on another change, and five on ours."""
    other = statement("reopen", "0" * 64)
    signature = sign(other.text, Signer(key))
    ledger.append_all([Signed(other, signature).body] * count)
    ledger.append_all(
        [Signed(one, sign(one.text, Signer(key))).body for one in (statement("close", "1" * 64) for _ in range(5))]
    )


def statement(change: str, digest: str) -> Statement:
    """An approval, as long as those of the profiles."""
    details = {
        "approval": "safety",
        "parameters": "",
        "checklist": ["a question of sixty letters, as they usually are"] * 4,
    }
    return Statement(Kind.APPROVE, change, digest, "production", "ann@example.org", datetime.now(UTC), details)


def measure(book: Book, count: int) -> None:
    """Medians of several rounds."""
    policy = book.config.policy_for("production")
    subject = Subject("close", "1" * 64)
    read, chain, find, whole = [], [], [], []
    for _ in range(ROUNDS):
        began = perf_counter()
        entries = book.ledger.entries()
        read.append(perf_counter() - began)
        began = perf_counter()
        assert first_break(entries) is None
        chain.append(perf_counter() - began)
        reading = book.read()
        began = perf_counter()
        found = book.find(reading, subject, "production", policy, datetime.now(UTC))
        find.append(perf_counter() - began)
        whole.append(audit(book, signatures=False).seconds)
    assert found.said
    print(f"entries                            {count:>12,}")
    print(f"read                               {median(read) * 1000:>9.1f} ms")
    print(f"recompute the chain                {median(chain) * 1000:>9.1f} ms")
    print(f"find and verify (ssh-keygen)       {median(find) * 1000:>9.1f} ms")
    print(f"audit without signatures           {count / median(whole):>9,.0f} entries/s")


if __name__ == "__main__":
    main()
