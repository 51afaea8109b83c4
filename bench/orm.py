"""`python -m bench.orm [ROWS] [ROUNDS]`: a backfill in batches against what an application's own loops take, in Django.

All forms work on the same table, each freshly loaded, in turns. "bulk_update" reads objects with `iterator()` and writes
them in batches of 1,000; "save" is the plain loop, each object saved by itself. Both are timed on a part of the rows, and
scaled up. Prints; writes nothing.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path

import django  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]
from django.db import connection, models  # type: ignore[import-untyped]

from backout.engines.postgres.embedded import EmbeddedServer
from bench.batches import BATCH, CHANGE, Batches
from bench.measure import Ratio, medians

BULK_PART, SAVE_PART = 100_000, 10_000


def connect(server: EmbeddedServer) -> type[models.Model]:
    """Set Django up for the bench's server. Returns the model of its table."""
    place = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "backout_login"}
    place |= {"PASSWORD": "bench", "HOST": "127.0.0.1", "PORT": str(server.port)}
    settings.configure(DATABASES={"default": place}, USE_TZ=True)
    django.setup()

    class Referral(models.Model):  # type: ignore[misc]
        """A row of the bench's table."""

        id = models.BigIntegerField(primary_key=True)
        clinic_id = models.IntegerField()
        status = models.TextField()
        reason = models.TextField()
        opened_at = models.DateTimeField()
        amount = models.DecimalField(max_digits=12, decimal_places=2)
        urgent = models.BooleanField()
        updated_at = models.DateTimeField()

        class Meta:
            app_label = "clinic"
            db_table = "referral"
            managed = False

    return Referral


def bulk_update(model: type[models.Model], rows: int) -> None:
    """The first rows, a thousand at a time."""
    objects = model.objects.filter(id__lte=rows).iterator(chunk_size=BATCH)
    while batch := list(islice(objects, BATCH)):
        for one in batch:
            one.status = "closed"
        model.objects.bulk_update(batch, ["status"])


def save(model: type[models.Model], rows: int) -> None:
    """The first rows, one by one."""
    for one in model.objects.filter(id__lte=rows).iterator():
        one.status = "closed"
        one.save()


def main() -> None:
    """Measure, and print the table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer.start(
            Path(folder) / "server", settings={"max_wal_size": "8GB", "shared_buffers": "256MB"}
        ) as server,
    ):
        place = Path(folder) / "project"
        place.mkdir()
        bench = Batches(server, place, rows)
        (place / "changes" / "backfill.sql").write_text(CHANGE)
        model = connect(server)
        bench.connection.execute("GRANT clinic_app TO backout_login WITH INHERIT TRUE")
        bulk, single = min(rows, BULK_PART), min(rows, SAVE_PART)
        found = medians(
            {
                "ours": (bench.ready, bench.ours),
                "bulk_update": (bench.ready, lambda: bulk_update(model, bulk)),
                "save": (bench.ready, lambda: save(model, single)),
            },
            rounds,
        )
        connection.close()
        print(f"\n{rows:,} rows, {rounds} rounds; bulk_update on {bulk:,}, save on {single:,} of them")
        for what, name, part, bar in (
            ("bulk_update in batches of 1,000", "bulk_update", bulk, 0.2),
            ("save() row by row", "save", single, 0.02),
        ):
            print(Ratio(f"batches with capture / {what}", found["ours"], found[name] * rows / part, bar).row())


if __name__ == "__main__":
    main()
