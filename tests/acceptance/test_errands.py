"""The whole engine on a practice that lists nobody: patients from a roster, notes with their attachments, a bulk export beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.parts import state_of, wait_until
from tests.acceptance.rig import ECW, Rig, spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.parts import Services

TYPES = ("Observation", "DocumentReference")


def test_what_no_search_lists_is_found_read_and_told(tmp_path: Path, new_services: Callable[[], Services]) -> None:
    """Broken on purpose once: an engine that started none of its errands passed every test of theirs."""
    roster = tmp_path / "roster.csv"
    practice = {
        "patients": {"names": [], "roster": str(roster), "references": False},
        "bulk": {"group": f"{ECW}-ALL", "use": ["first-load"]},
        "feeds": {
            "Patient": {},
            "Observation": {"categories": ["laboratory"]},
            "DocumentReference": {"attachments": {"max_bytes": 100_000}},
        },
    }
    one = spec(ECW, types=TYPES, patients=3, rich=True, bulk=True, bulk_seconds=0, bulk_retry_seconds=1)
    with Rig(tmp_path / "home", new_services(), [one], practice=practice) as rig, rig.collector() as consumer:
        patients = sorted(rig.world.written(ECW, "Patient"))
        roster.write_text("id\n" + "\n".join(patients[:2]) + "\n", encoding="utf-8")

        def told(resource_type: str) -> set[str]:
            keys = (subject.partition("/") for subject in state_of(consumer.of(ECW)))
            return {id_ for kind, _, id_ in keys if kind == resource_type}

        def exported() -> bool:
            store = rig.installation()
            with store.engine("poller_reader", 1).connect() as connection:
                return (
                    connection.exec_driver_sql("SELECT count(*) FROM poller.export WHERE state = 'done'").scalar() == 1
                )

        with rig.engine():
            wait_until("the roster's patients are told of", lambda: set(patients[:2]) <= told("Patient"), 120)
            wait_until("attachments are told of", lambda: bool(told("Binary")), 120)
            wait_until("an export is done", exported, 120)
            wait_until("the export shows the others", lambda: told("Patient") == set(patients), 120)
