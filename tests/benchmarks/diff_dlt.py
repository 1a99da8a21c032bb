"""The same work by dlt (merge, scd2) beside ours: ``pip install "dlt[postgres]"``, then ``diff.py --peer dlt``."""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from typing import Any

from tests.benchmarks.records import body, changed

ROUNDS = {"first load": 0, "unchanged": 0, "1 % changed": 100, "all changed": 1}


def measure(url: str, count: int) -> dict[str, Any]:
    """Seconds of each round; a row holds the id and the whole resource as text, so that nothing is taken apart into child tables.

    Raises SystemExit where dlt is not installed.
    """
    try:
        dlt: Any = importlib.import_module("dlt")
    except ImportError:
        raise SystemExit('dlt is not installed; pip install "dlt[postgres]" in the environment of this run') from None
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        pipeline = dlt.pipeline(
            "diff", pipelines_dir=directory, dataset_name="peer", destination=dlt.destinations.postgres(_as_url(url))
        )
        for name, every in ROUNDS.items():
            rows = [
                {"id": f"o{number}", "body": _content(body(number, changed(number, every) if every else 0))}
                for number in range(count)
            ]
            made = dlt.resource(
                rows, name="observation", write_disposition={"disposition": "merge", "strategy": "scd2"}
            )
            clock = time.perf_counter()
            pipeline.run(made)
            seconds = time.perf_counter() - clock
            found[name] = {"resources a second": round(count / seconds), "seconds": round(seconds, 2)}
    return found


def _content(text: bytes) -> str:
    """Without the server's bookkeeping, in an order of keys that is always the same; what dlt compares is what it is given."""
    resource = json.loads(text)
    resource["meta"].pop("versionId")
    resource["meta"].pop("lastUpdated")
    return json.dumps(resource, sort_keys=True, separators=(",", ":"))


def _as_url(conninfo: str) -> str:
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - only here

    said = conninfo_to_dict(conninfo)
    return f"postgresql://{said['user']}:{said.get('password', 'none')}@{said['host']}:{said['port']}/{said['dbname']}"
