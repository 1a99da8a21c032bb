"""What a practice truly holds, and when it held what: all that can ever be seen of it."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from poller.core import jsontext
from tests.acceptance.hypo.script import Change, Op, Ways

Content = Mapping[str, Any]
Key = tuple[str, str]

CATEGORIES = ("laboratory", "vital-signs")
NAMES = ("a", "b")
"""Prefixes by which patients are enumerated; each patient has one."""
_FAMILIES = ("Aho", "Bell", "Abel")
_VALUES = tuple(map(jsontext.loads, ("7", "7.0", "7.00")))
"""Three contents: FHIR R4 §2.24.0.1, the precision of a decimal is part of its meaning."""
_SHOWN_IN = (CATEGORIES, CATEGORIES[:1], CATEGORIES[1:])


@dataclass
class Life:
    """All contents of one resource, each from when it could be seen; None while it is gone."""

    key: Key
    spans: list[tuple[dt.datetime, Content | None]] = field(default_factory=list)
    stamp: dt.datetime | None = None
    edits: int = 0
    """Grows with everything that touches it; decides what its narrative says."""

    @property
    def now(self) -> Content | None:
        return self.spans[-1][1] if self.spans else None

    @property
    def last(self) -> dict[str, Any]:
        """Its content, or what it was before it went."""
        content = next(content for _, content in reversed(self.spans) if content is not None)
        return copy.deepcopy(dict(content))


class Truth:
    """A practice whose resources change one at a time."""

    def __init__(self, ways: Ways, now: Callable[[], dt.datetime]) -> None:
        self.ways = ways
        self._now = now
        self.lives: dict[Key, Life] = {}
        for _ in range(ways.patients):
            self.apply(Change(Op.ADMIT))
        for number in range(ways.resources):
            self.apply(Change(Op.CREATE, number, number))

    def state(self) -> dict[Key, Content]:
        """What is there now."""
        return {key: life.now for key, life in self.lives.items() if life.now is not None}

    def apply(self, change: Change) -> None:
        """Let it happen; nothing happens if there is nothing that it could happen to."""
        _OPS[change.op](self, change.which, change.value)

    def set(self, key: Key, content: Content | None) -> None:
        """Give a resource this content from now on."""
        life = self.lives.setdefault(key, Life(key))
        now = self._now()
        if content != life.now:
            life.spans.append((now, content))
        life.edits += 1
        if life.stamp is None or self.ways.stamps_move:
            life.stamp = now + dt.timedelta(seconds=self.ways.stamps - self.ways.lag)

    def patient(self, which: int, *, gone: bool = False) -> Life | None:
        """A patient who is there, or (``gone``) who is not."""
        return self._pick(which, [life for life in self.lives.values() if life.key[0] == "Patient"], gone=gone)

    def clinical(self, which: int, *, gone: bool = False) -> Life | None:
        """A patient's resource that is there, or (``gone``) that is not."""
        return self._pick(which, [life for life in self.lives.values() if life.key[0] != "Patient"], gone=gone)

    def _pick(self, which: int, lives: list[Life], *, gone: bool) -> Life | None:
        found = sorted((life for life in lives if (life.now is None) is gone), key=lambda life: life.key)
        return found[which % len(found)] if found else None

    def has_others_than(self, patient: Life) -> bool:
        return any(
            life.key[0] == "Patient" and life is not patient and life.now is not None for life in self.lives.values()
        )

    def of_patient(self, patient: str) -> list[Life]:
        """Everything there that is a patient's."""
        return [life for life in self.lives.values() if life.now is not None and patient_of(life.now) == patient]


def patient_of(content: Content) -> str | None:
    """Whose it is; None for a patient."""
    return content["subject"]["reference"].removeprefix("Patient/") if "subject" in content else None


def _next_id(truth: Truth, resource_type: str, letter: str) -> str:
    number = 1 + sum(kind == resource_type for kind, _ in truth.lives)
    return f"{letter}.{number}" if number % 2 == 0 else f"{letter}{number}"


def _create(truth: Truth, which: int, value: int) -> None:
    if (patient := truth.patient(which)) is None:
        return
    of_patient = {"subject": {"reference": f"Patient/{patient.key[1]}"}}
    if truth.ways.conditions and which % 2:
        id_ = _next_id(truth, "Condition", "c")
        truth.set(
            ("Condition", id_), {"resourceType": "Condition", "id": id_, **of_patient, **_value("Condition", value)}
        )
        return
    id_ = _next_id(truth, "Observation", "o")
    more = {"status": "final", "category": _category(value), **_value("Observation", value)}
    truth.set(("Observation", id_), {"resourceType": "Observation", "id": id_, **of_patient, **more})


def _value(resource_type: str, value: int) -> dict[str, Any]:
    name = "valueQuantity" if resource_type == "Observation" else "onsetAge"
    return {name: {"value": _VALUES[value % len(_VALUES)]}}


def _category(value: int) -> list[dict[str, Any]]:
    return [{"coding": [{"code": code}]} for code in _SHOWN_IN[value % len(_SHOWN_IN)]]


def _edit(truth: Truth, which: int, change: Callable[[str], Mapping[str, Any]]) -> None:
    if (life := truth.clinical(which)) is not None:
        truth.set(life.key, {**life.last, **change(life.key[0])})


def _update(truth: Truth, which: int, value: int) -> None:
    _edit(truth, which, lambda kind: _value(kind, value))


def _touch(truth: Truth, which: int, value: int) -> None:
    _edit(truth, which, lambda _: {})
    if (patient := truth.patient(value)) is not None:
        truth.set(patient.key, patient.last)


def _delete(truth: Truth, which: int, _value: int) -> None:
    if (life := truth.clinical(which)) is not None:
        truth.set(life.key, None)


def _restore(truth: Truth, which: int, value: int) -> None:
    life, patient = truth.clinical(which, gone=True), truth.patient(value)
    if life is None or patient is None:
        return
    content = life.last
    if truth.lives["Patient", patient_of(content) or ""].now is None:
        content["subject"] = {"reference": f"Patient/{patient.key[1]}"}
    truth.set(life.key, content)


def _error(truth: Truth, which: int, _value: int) -> None:
    verified = {"verificationStatus": {"coding": [{"code": "entered-in-error"}]}}
    _edit(truth, which, lambda kind: {"status": "entered-in-error"} if kind == "Observation" else verified)


def _move(truth: Truth, which: int, value: int) -> None:
    if (patient := truth.patient(value)) is not None:
        _edit(truth, which, lambda _: {"subject": {"reference": f"Patient/{patient.key[1]}"}})


def _recategorize(truth: Truth, which: int, value: int) -> None:
    _edit(truth, which, lambda kind: {"category": _category(value)} if kind == "Observation" else {})


def _admit(truth: Truth, which: int, _value: int) -> None:
    id_ = _next_id(truth, "Patient", "p")
    family = _FAMILIES[which % len(_FAMILIES)]
    truth.set(("Patient", id_), {"resourceType": "Patient", "id": id_, "active": True, "name": [{"family": family}]})


def _rename(truth: Truth, which: int, value: int) -> None:
    if (patient := truth.patient(which)) is not None:
        truth.set(patient.key, patient.last | {"name": [{"family": _FAMILIES[value % len(_FAMILIES)]}]})


def _hand_over(truth: Truth, which: int, value: int) -> tuple[Life, Life] | None:
    """The patient who is replaced and the one who gets the resources."""
    one, other = truth.patient(which), truth.patient(which + 1 + value % 2)
    if one is None or other is None or one is other:
        return None
    for life in truth.of_patient(one.key[1]):
        truth.set(life.key, life.last | {"subject": {"reference": f"Patient/{other.key[1]}"}})
    return one, other


def _merge(truth: Truth, which: int, value: int) -> None:
    if (pair := _hand_over(truth, which, value)) is not None:
        link = [{"other": {"reference": f"Patient/{pair[1].key[1]}"}, "type": "replaced-by"}]
        truth.set(pair[0].key, pair[0].last | {"active": False, "link": link})


def _vanish(truth: Truth, which: int, value: int) -> None:
    if (pair := _hand_over(truth, which, value)) is not None:
        truth.set(pair[0].key, None)


def _discharge(truth: Truth, which: int, _value: int) -> None:
    patient = truth.patient(which)
    if patient is None or not (truth.ways.empties or truth.has_others_than(patient)):
        return
    for life in truth.of_patient(patient.key[1]):
        truth.set(life.key, None)
    truth.set(patient.key, None)


def _return(truth: Truth, which: int, _value: int) -> None:
    if (patient := truth.patient(which, gone=True)) is not None:
        truth.set(patient.key, patient.last)


_OPS: Mapping[Op, Callable[[Truth, int, int], None]] = {
    Op.CREATE: _create,
    Op.UPDATE: _update,
    Op.TOUCH: _touch,
    Op.DELETE: _delete,
    Op.RESTORE: _restore,
    Op.ERROR: _error,
    Op.MOVE: _move,
    Op.CATEGORY: _recategorize,
    Op.ADMIT: _admit,
    Op.RENAME: _rename,
    Op.MERGE: _merge,
    Op.VANISH: _vanish,
    Op.DISCHARGE: _discharge,
    Op.RETURN: _return,
}
