"""What becomes an event, and what never does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from poller.core import canonical, jsontext
from poller.core.envelope import event_id
from poller.core.model import Action, Coverage, Kind, Origin, Target
from poller.store.repository import Repository

if TYPE_CHECKING:
    from tests.integration.conftest import Practice

pytestmark = pytest.mark.usefixtures("bodies")

DECIMAL = b'{"resourceType":"Observation","id":"o1","status":"final","valueQuantity":{"value":%s,"unit":"mmol/L"}}'


def test_a_life_makes_one_event_a_version(practice: Practice) -> None:
    practice.read(practice.observation())
    practice.read(practice.observation(value="14"))
    practice.delete("o1")
    practice.read(practice.observation(value="14"))
    practice.read(practice.observation(value="14", status="entered-in-error"))
    assert practice.actions() == [
        ("created", "o1", 1),
        ("updated", "o1", 2),
        ("deleted", "o1", 3),
        ("restored", "o1", 4),
        ("entered-in-error", "o1", 5),
    ]
    changed = [event.changed for event in practice.log.after("p1", 1, 0, 10, bodies=False)]
    assert changed == [(), ("valueString",), (), (), ("status",)]


def test_a_patient_replaced_by_another_is_merged_once(practice: Practice) -> None:
    link = [{"other": {"reference": "Patient/b"}, "type": "replaced-by"}]
    practice.read(practice.patient())
    practice.read(practice.patient(link=link))
    practice.read(practice.patient(link=link, active=False))
    assert practice.actions() == [("created", "a", 1), ("merged", "a", 2), ("updated", "a", 3)]


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param({}, id="the same again"),
        pytest.param({"text": {"status": "generated", "div": "<div>new</div>"}}, id="narrative"),
        pytest.param({"meta": {"versionId": "9", "lastUpdated": "2027-01-01T00:00:00Z"}}, id="bookkeeping"),
        pytest.param({"meta": {"versionId": "9", "_lastUpdated": {"id": "x"}}}, id="bookkeeping's extensions"),
        pytest.param({"meta": {}}, id="bookkeeping left out"),
    ],
)
def test_noise_makes_no_event_and_writes_nothing(practice: Practice, noise: dict[str, Any]) -> None:
    practice.read(practice.observation())
    before = practice.tables()
    assert practice.read(practice.observation(**noise)).changes == ()
    assert practice.tables() == before


def test_key_order_and_contained_narrative_make_no_event(practice: Practice) -> None:
    contained = {"resourceType": "Practitioner", "id": "x", "name": [{"family": "B", "given": ["C"]}]}
    practice.read(practice.observation(contained=[contained | {"text": {"div": "<div>1</div>"}}]))
    turned = dict(reversed(contained.items())) | {"text": {"div": "<div>2</div>"}}
    resource = practice.observation(contained=[turned])
    assert practice.read(dict(reversed(resource.items()))).changes == ()
    changed = practice.observation(contained=[contained | {"name": [{"family": "D"}]}])
    assert [decision.changed for _, decision in practice.read(changed).changes] == [("contained",)]


def test_a_decimal_counts_as_written_and_white_space_does_not(practice: Practice) -> None:
    for text in (b"13.20", b"13.2", b"1.32e1"):
        practice.read(jsontext.loads(DECIMAL % text))
        assert practice.read(jsontext.loads((DECIMAL % text).replace(b",", b" ,\n\t"))).changes == ()
    assert [action for action, _, _ in practice.actions()] == ["created", "updated", "updated"]
    events = practice.log.after("p1", 1, 0, 10, bodies=True)
    bodies = [jsontext.dumps(event.body) for event in events]
    assert bodies == [DECIMAL % text for text in (b"13.20", b"13.2", b"1.32e1")]
    assert [event.previous_body for event in events[1:]] == [event.body for event in events[:-1]]


def test_the_same_id_in_two_types_and_two_practices_is_not_the_same_resource(practice: Practice) -> None:
    practice.read(practice.observation("x"), practice.patient("x"))
    other = type(practice)(practice.engine, code="p2")
    other.read(other.observation("x"))
    assert practice.actions() == [("created", "x", 1), ("created", "x", 1)]
    assert other.actions() == [("created", "x", 1)]
    other.keeper.close()


def test_a_resource_twice_in_a_batch_is_recorded_once(practice: Practice) -> None:
    practice.read(practice.observation(value="1"), practice.observation(value="2"))
    [event] = practice.log.after("p1", 1, 0, 10, bodies=True)
    assert event.body is not None
    assert event.body["valueString"] == "2"


def test_new_noise_rules_make_no_event_and_digest_again(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    practice.read(practice.observation("o1", device="d1"), practice.observation("o2", device="d1"))
    practice.delete("o2")
    before = practice.rows("SELECT rules_version, elements FROM poller.snapshot WHERE id = 'o1'")
    original = canonical.canonical
    monkeypatch.setattr(
        canonical,
        "canonical",
        lambda resource: {name: value for name, value in original(resource).items() if name != "device"},
    )
    monkeypatch.setattr(canonical, "RULES_VERSION", canonical.RULES_VERSION + 1)
    practice.repository = Repository(practice.engine, b"k" * 32)
    assert practice.read(practice.observation("o1", device="d2")).changes == ()
    [(rules, elements)] = practice.rows("SELECT rules_version, elements FROM poller.snapshot WHERE id = 'o1'")
    assert rules > before[0].rules_version
    assert "device" in before[0].elements
    assert "device" not in elements
    changed = practice.read(practice.observation("o1", value="14", device="d3")).changes
    assert [(decision.action, decision.changed) for _, decision in changed] == [(Action.UPDATED, ("valueString",))]
    assert [decision.action for _, decision in practice.read(practice.observation("o2")).changes] == [Action.RESTORED]


def test_new_rules_and_new_content_at_once_are_told_apart(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    practice.read(practice.observation(device="d1"))
    original = canonical.canonical
    monkeypatch.setattr(canonical, "canonical", lambda resource: original(resource) | {"rules": 2})
    monkeypatch.setattr(canonical, "RULES_VERSION", canonical.RULES_VERSION + 1)
    practice.repository = Repository(practice.engine, b"k" * 32)
    changed = practice.read(practice.observation(device="d2")).changes
    assert [(decision.action, decision.changed) for _, decision in changed] == [(Action.UPDATED, ("device",))]


def test_the_event_carries_what_a_consumer_needs(practice: Practice) -> None:
    practice.read(practice.observation(), origin=Origin.BASELINE)
    practice.read(
        practice.observation(status="amended", subject={"reference": "Patient/moved"}), previous_read=practice.at(1)
    )
    first, second = practice.log.after("p1", 1, 0, 10, bodies=False)
    assert (first.origin, first.previous_read) == (Origin.BASELINE, None)
    assert (second.origin, second.previous_read) == (Origin.LIVE, practice.at(1))
    assert (second.categories, second.status) == (("laboratory",), "amended")
    assert second.partition_key == first.partition_key == "Patient/a", "frozen at first sight"
    assert first.body is None
    assert second.previous_body is None
    [(digest,)] = practice.rows("SELECT digest FROM poller.snapshot")
    assert second.event_id == event_id("p1", "Observation", "o1", 2, Action.UPDATED, bytes(digest))


@pytest.mark.parametrize("odd", ["\x00", "a\x00b"])
def test_text_that_postgres_refuses_does_not_stop_the_batch(practice: Practice, odd: str) -> None:
    strange = practice.observation(
        "o1", status=odd, category=[{"coding": [{"code": odd}]}], subject={"reference": f"Patient/{odd}"}
    ) | {odd: 1}
    practice.read(strange, practice.observation("o2"))
    assert [id_ for _, id_, _ in practice.actions()] == ["o1", "o2"]


def test_a_pass_can_end_without_a_batch(practice: Practice) -> None:
    practice.whole(coverage=Coverage.COMPLETE)
    [state] = practice.state.targets("p1", ())
    assert state.baseline_at is not None
    assert practice.actions() == []


def test_reads_of_several_types_in_one_batch_keep_their_types_apart(practice: Practice) -> None:
    practice.register(Target("p1", "Patient", Kind.SWEEP))
    recorded = practice.read(practice.patient("a"), practice.observation("o1"), practice.observation("o2"))
    assert {key for key, _ in recorded.changes} == {("Patient", "a"), ("Observation", "o1"), ("Observation", "o2")}


def test_what_changes_during_a_baseline_is_news(practice: Practice) -> None:
    """A first read that takes several tries sees changes too; a sink without baselines must hear of them."""
    practice.read(practice.observation(value="1"), origin=Origin.BASELINE)
    practice.read(practice.observation(value="2"), origin=Origin.BASELINE)
    events = practice.log.after("p1", 1, 0, 10, bodies=False)
    assert [(event.action, event.origin) for event in events] == [
        (Action.CREATED, Origin.BASELINE),
        (Action.UPDATED, Origin.LIVE),
    ]
