"""Synthetic Observations of about 2 KB, as a server would send them: three shapes, whose values follow from number and round alone."""

from __future__ import annotations

import hashlib

BATCH = 1_000

_PANEL = (
    '{"code":{"coding":[{"system":"http://loinc.org","code":"%d-%d","display":"Component %d of a panel"}]},'
    '"valueQuantity":{"value":%d.%d0,"unit":"mmol/L","system":"http://unitsofmeasure.org","code":"mmol/L"},'
    '"referenceRange":[{"low":{"value":%d.0},"high":{"value":%d.5}}]}'
)
_SIGN = (
    '{"code":{"coding":[{"system":"http://loinc.org","code":"85%d-%d"},{"system":"urn:oid:1.2.840.114350","code":"%d"}],'
    '"text":"Sign %d"},"valueQuantity":{"value":%d,"unit":"mm[Hg]"},"interpretation":[{"coding":[{"code":"N"}]}]}'
)


def body(number: int, round_: int = 0) -> bytes:
    """The resource ``o<number>`` as it stands in a round; another round is another value, nothing else."""
    drawn = hashlib.sha256(f"{number}/{round_}".encode()).hexdigest()
    shape = number % 3
    if shape == 0:
        parts = [_PANEL % (number % 997, p, p, (number * 7 + p) % 200, p, p, p + 9) for p in range(7)]
        own = f'"component":[{",".join(parts)}]'
    elif shape == 1:
        parts = [_SIGN % (p, number % 10, number % 9973, p, (number + 13 * p) % 190) for p in range(8)]
        own = f'"component":[{",".join(parts)}]'
    else:
        note = hashlib.sha512(str(number).encode()).hexdigest()
        own = (
            f'"note":[{{"text":"{note}{note[::-1]}"}},{{"text":"{note[:90]} caf\\u00e9 {note[9:]}"}}],'
            f'"extension":[{{"url":"http://example.org/fhir/device","valueString":"{note}"}}],"method":{{"text":"{note * 5}"}}'
        )
    return (
        f'{{"resourceType":"Observation","id":"o{number}","meta":{{"versionId":"{round_ + 1}","lastUpdated":"2026-11-22T11:00:00Z",'
        f'"profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-observation-lab"]}},'
        f'"identifier":[{{"system":"urn:example:results","value":"{number}"}}],"status":"final",'
        f'"category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}}]}}],'
        f'"code":{{"coding":[{{"system":"http://loinc.org","code":"{number % 997}-1"}}],"text":"Panel {number % 997}"}},'
        f'"subject":{{"reference":"Patient/p{number % 5000}"}},"encounter":{{"reference":"Encounter/e{number % 50000}"}},'
        f'"effectiveDateTime":"2026-11-{number % 28 + 1:02}T08:00:00Z","issued":"2026-11-20T09:{number % 60:02}:00Z",'
        f'"valueString":"{drawn}",{own}}}'
    ).encode()


def changed(number: int, every: int) -> int:
    """The round of a resource where each ``every``-th has changed once."""
    return 1 if number % every == 0 else 0
