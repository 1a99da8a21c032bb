"""What programs may rely on of the --json of `poller status`, `why`, `verify` and `reconcile`, as JSON Schemas (draft-07).

As with events: members may be added under the same ``$id``, and words to an enumeration that says so; whatever else changes gets a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poller.core.dump import Flaw, Outcome
from poller.core.health import Cause, FeedState, State
from poller.core.model import Action
from poller.core.schema import DRAFT
from poller.core.trace import Arrival, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping

_INSTANT: dict[str, Any] = {"type": "string", "format": "date-time"}
_WHEN: dict[str, Any] = {"type": ["string", "null"], "format": "date-time"}
_NAME: dict[str, Any] = {"type": "string"}
_MAYBE: dict[str, Any] = {"type": ["string", "null"]}
_NUMBER_OR_NONE: dict[str, Any] = {"type": ["integer", "null"], "minimum": 0}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_FLAG: dict[str, Any] = {"type": "boolean"}


def _object(**members: Mapping[str, Any]) -> dict[str, Any]:
    """An object that has all of these members."""
    return {
        "type": "object",
        "required": list(members),
        "properties": {name: dict(said) for name, said in members.items()},
    }


def _list(items: Mapping[str, Any], description: str = "") -> dict[str, Any]:
    return {"type": "array", "items": dict(items)} | ({"description": description} if description else {})


def _document(name: str, title: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"$schema": DRAFT, "$id": f"urn:ehr-poller:schema:{name}:1", "title": title} | dict(body)


_FINDING = _object(
    cause=_NAME | {"enum": [cause.value for cause in Cause], "description": "More may be added."},
    trouble=_FLAG | {"description": "Whether somebody must do something; any makes the command exit 3."},
    what=_NAME,
    next=_NAME | {"description": "What to do next."},
    feeds=_list(_NAME),
    sink=_MAYBE,
)

_FEED = _object(
    feed=_NAME,
    state=_NAME | {"enum": [state.value for state in FeedState]},
    why=_NAME,
    strategy=_MAYBE | {"description": "The rung by which it is read."},
    searches=_COUNT,
    neverRead=_COUNT,
    failing=_COUNT,
    failure=_MAYBE,
    lastWholeRead=_WHEN,
    oldest=_WHEN,
    heldDeletes=_COUNT,
)

_SINK = _object(
    sink=_NAME,
    configured=_FLAG,
    begun=_FLAG | {"description": "Whether it has ever reached its broker; else it counts nothing yet."},
    recorded=_COUNT | {"description": "skipped + delivered + filtered + discarded + parked + waiting + missing"},
    skipped=_COUNT,
    delivered=_COUNT,
    filtered=_COUNT,
    discarded=_COUNT,
    parked=_COUNT,
    waiting=_COUNT,
    missing={"type": "integer", "description": "0, or something is wrong."},
    released=_COUNT,
    oldestWaiting=_WHEN,
    trouble=_MAYBE | {"description": "What keeps it from going on, in the relay's words."},
    troubleSince=_WHEN,
    parkedFor=_list(_object(reason=_NAME, events=_COUNT)),
)


def status_schema() -> dict[str, Any]:
    """Of `poller status --json`."""
    practice = _object(
        practice=_NAME,
        state=_NAME | {"enum": [state.value for state in State]},
        lastLook=_WHEN,
        lookedBy=_MAYBE,
        failure=_MAYBE
        | {"description": "The code of the error that reading it ended in, where no pass has ended well since."},
        failingSince=_WHEN,
        budget=_object(
            limit=_COUNT,
            leave={"type": "number"},
            used=_COUNT,
            part={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            blockedUntil=_WHEN,
        ),
        feeds=_list(_FEED),
        sinks=_list(_SINK),
        findings=_list(_FINDING, "Most urgent first."),
    )
    configuration = _object(
        revision={"type": ["integer", "null"], "description": "In force."},
        acceptedAt=_WHEN,
        fileDiffers=_FLAG,
        problems=_list(_NAME, "What is wrong with the file."),
        reloadRefusedAt=_WHEN,
    )
    body = _object(
        at=_INSTANT,
        healthy=_FLAG | {"description": "Whether the command exits 0."},
        configuration=configuration,
        findings=_list(_FINDING, "On the configuration."),
        practices=_list(practice),
    )
    return _document("status", "How practices are: poller status --json", body)


def why_schema() -> dict[str, Any]:
    """Of `poller why --json`."""
    reading = _object(
        kind=_NAME,
        category=_MAYBE,
        showsAll=_FLAG | {"description": "Rather than what has changed since the read before."},
        lastTried=_WHEN,
        lastWhole=_WHEN,
        failure=_MAYBE,
        hasShown={"type": ["boolean", "null"], "description": "null where that is not kept."},
    )
    feed = _object(
        feed=_NAME,
        state=_NAME | {"enum": [state.value for state in FeedState]},
        why=_NAME,
        strategy=_MAYBE,
        stored=_NUMBER_OR_NONE,
        deleted=_NUMBER_OR_NONE,
        readings=_list(reading),
    )
    stored = _object(
        version=_COUNT, deleted=_FLAG, firstSeen=_INSTANT, changed=_INSTANT, absence=_MAYBE, missingSince=_WHEN
    )
    known = _object(since=_INSTANT, goneAt=_WHEN, named=_list(_object(source=_NAME, first=_INSTANT, last=_INSTANT)))
    sink = _object(
        sink=_NAME,
        arrival=_NAME | {"enum": [one.value for one in Arrival], "description": "More may be added."},
        reason=_NAME,
    )
    event = _object(
        resource=_NAME,
        version=_COUNT,
        action=_NAME,
        origin=_NAME,
        sequence=_NAME,
        recordedAt=_INSTANT,
        sinks=_list(sink),
    )
    body = _object(
        practice=_NAME,
        resource=_MAYBE | {"description": "Type/id; null where a patient was asked for."},
        patient=_MAYBE | {"description": "Whose it is; null where that is not known."},
        stop=_NAME | {"enum": [stop.value for stop in Stop], "description": "Where it stopped. More may be added."},
        asItShouldBe=_FLAG | {"description": "Whether the command exits 0."},
        sentence=_NAME,
        next=_NAME,
        known={"oneOf": [known, {"type": "null"}]},
        sources=_list(_object(source=_NAME, whole=_WHEN)),
        feeds=_list(feed),
        stored={"oneOf": [stored, {"type": "null"}]},
        events=_list(event, "The newest first."),
    )
    return _document("why", "Where something stopped: poller why --json", body)


def verify_schema() -> dict[str, Any]:
    """Of `poller verify --json`."""
    counted = _object(type=_NAME, **{outcome.value: _COUNT for outcome in Outcome})
    reason = _NAME | {"enum": [flaw.value for flaw in Flaw], "description": "More may be added."}
    unreadable = _object(
        lines=_COUNT,
        first=_list(
            _object(file=_NAME, line=_COUNT, reason=reason), "At most a hundred; nothing of what stands there."
        ),
    )
    body = _object(
        practice=_NAME,
        equal=_FLAG | {"description": "Whether all that was compared is equal."},
        resources=_COUNT | {"description": "Lines of the dump that hold a resource."},
        types=_list(counted, "equal, different, missing in the store, and extra: in the store and not in the dump."),
        unreadable=unreadable,
    )
    body["properties"]["listed"] = _list(
        _object(outcome=_NAME | {"enum": [one.value for one in Outcome if one is not Outcome.EQUAL]}, resource=_NAME),
        "With --list only: what is not equal.",
    )
    return _document("verify", "An outside dump beside the store: poller verify --json", body)


def reconcile_schema() -> dict[str, Any]:
    """Of `poller reconcile --json`. Where no engine has begun, or it refuses, there is only what says so."""
    actions = {
        "type": "object",
        "properties": {action.value: _COUNT for action in Action},
        "additionalProperties": False,
    }
    found = _object(
        feed=_NAME,
        windows=_FLAG | {"description": "Whether windows stand beside, which do not show these."},
        actions=actions,
    )
    body = _object(
        control=_COUNT,
        total=_COUNT | {"description": "Searches."},
        read=_COUNT,
        whole=_COUNT | {"description": "As many as total, and more than none, or the command exits 3."},
        failed=_list(_object(feeds=_list(_NAME), failure=_NAME, searches=_COUNT)),
        found=_list(found),
        held={"type": "object", "additionalProperties": _COUNT, "description": "Deletes that are held, by feed."},
        notes=_list(_NAME),
        joined=_FLAG | {"description": "Whether the pass was under way when it was asked for."},
        why=_NAME | {"description": "Why it was refused, in a word."},
        problems=_list(_NAME),
    )
    return _document(
        "reconcile", "What a full pass has found: poller reconcile --json", body | {"required": ["control"]}
    )
