"""What eClinicalWorks writes and others do not goes from the wire to the event as it stands."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any

import httpx

from poller.core import canonical, jsontext
from poller.core.model import Kind, Purpose, Sighting, Target
from tests.integration.conftest import KEY, Practice
from tests.source_bench import Server

DOTTED = "Lq1b.8HC-2f.J4-" + "x" * 49
"""64 characters, as ids of eClinicalWorks may have."""

PATIENT = """{"resourceType": "Patient", "id": "%s", "meta": {"lastUpdated": "2026-01-05T10:00:00.000-05:00"},
  "deceasedDateTime": "1899-12-30", "birthDate": "1899-12-30", "text": {"status": "empty", "div": "<div/>"},
  "name": [{"family": "O\\u2019Neil", "period": {"start": "1899-12-30T00:00:00-05:00"}}]}"""
OBSERVATION = """{"resourceType": "Observation", "id": "o.1", "meta": {"lastUpdated": "2026-07-05T10:00:00.000-04:00"},
  "status": "final", "subject": {"reference": "Patient/%s"}, "effectiveDateTime": "2026-07-05T09:59:00-04:00",
  "issued": "2026-07-05T09:59:00.000-04:00", "valueQuantity": {"value": 13.20, "unit": "g/dL"}}"""


def page(*resources: str) -> bytes:
    entries = ", ".join(f'{{"fullUrl": "http://inside/x", "resource": {resource}}}' for resource in resources)
    return f'{{"resourceType": "Bundle", "type": "searchset", "entry": [{entries}]}}'.encode()


def sightings(server: Server, resource_type: str) -> list[Sighting]:
    async def main() -> list[Sighting]:
        async with server.source() as source:
            target = Target("FAMLYMED", resource_type, Kind.SWEEP)
            reading = source.read(target, None, Purpose.DETECT)
            return [sighting async for batch in reading for sighting in batch.sightings]

    return asyncio.run(main())


def script(where: str, _request: httpx.Request) -> httpx.Response:
    text = page(PATIENT % DOTTED) if where.startswith("Patient") else page(OBSERVATION % DOTTED)
    return httpx.Response(200, content=text, headers={"Content-Type": "application/json+fhir;charset=UTF-8"})


def test_dotted_ids_placeholder_dates_whole_seconds_and_offsets_pass_unharmed(practice: Practice) -> None:
    practice.register(Target(practice.code, "Patient", Kind.SWEEP))
    seen = [*sightings(Server(script), "Patient"), *sightings(Server(script), "Observation")]
    versions = [canonical.reduce(sighting, KEY) for sighting in seen]
    assert [version.detail.last_modified for version in versions] == [
        dt.datetime(2026, 1, 5, 15, tzinfo=dt.UTC),
        dt.datetime(2026, 7, 5, 14, tzinfo=dt.UTC),
    ]
    for sighting in seen:
        target = Target(practice.code, sighting.resource_type, Kind.SWEEP)
        practice.read(sighting.resource, target=target)
    patient, observation = practice.log.after(practice.code, 0, 0, 10, bodies=True)
    assert (patient.id, patient.partition_key) == (DOTTED, f"Patient/{DOTTED}")
    assert (observation.id, observation.partition_key) == ("o.1", f"Patient/{DOTTED}")
    for event, text in ((patient, PATIENT % DOTTED), (observation, OBSERVATION % DOTTED)):
        assert event.body is not None
        assert jsontext.dumps(event.body) == jsontext.dumps(jsontext.loads(text.encode()))
        assert json.loads(jsontext.dumps(event.body)) == json.loads(text)
    assert b"13.20" in jsontext.dumps(observation.body)


def test_a_stamp_that_moves_or_is_written_otherwise_is_no_change_and_a_placeholder_that_goes_is(
    practice: Practice,
) -> None:
    target = Target(practice.code, "Patient", Kind.SWEEP)
    practice.register(target)

    def show(text: str) -> list[tuple[str, str, int]]:
        resource: Any = jsontext.loads(text.encode())
        practice.read(resource, target=target)
        return practice.actions()

    first = PATIENT % DOTTED
    created = show(first)
    assert created == [("created", DOTTED, 1)]
    assert show(first.replace("10:00:00.000-05:00", "15:00:00Z")) == created
    assert show(first.replace('"deceasedDateTime": "1899-12-30", ', "")) == [*created, ("updated", DOTTED, 2)]
