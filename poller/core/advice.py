"""What to do next about what is found, in words: for :mod:`poller.core.health`. Pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from poller.core.model import FailureKind

if TYPE_CHECKING:
    from poller.core.facts import FeedFacts, PracticeFacts

_NEARLY_ALL = 0.9
"""Of the calls that may leave: then they do not suffice."""

_LOG = "restart the poller; action=round.fail and practice.restart in its log say why it stood still"


def late_words(feed: FeedFacts, now: dt.datetime) -> str:
    """Why a feed is late, as far as the store tells."""
    if feed.failing:
        how = f": {feed.failure}" if feed.failure else ""
        return f"{feed.failing} of {feed.searches} searches failed at the last try{how}"
    if feed.read_by is None:
        return "it was never found out how it can be read"
    if feed.oldest is None:
        return "nothing failed; nothing was read"
    return f"nothing failed; the oldest read is of {ago(feed.oldest, now)}"


def next_for_late(failure: str | None, practice: PracticeFacts) -> str:
    """What to do about late feeds of which searches fail so, or (None) that do not fail."""
    code = practice.code
    match failure:
        case FailureKind.SERVER | FailureKind.MALFORMED:
            return f"the practice's server is sick; tell the practice if it lasts, `poller probe {code}` asks it"
        case FailureKind.TRANSPORT:
            return f"look at the network, the proxy and base_url; `poller probe {code}` asks it"
        case FailureKind.LOCKED_OUT:
            return "someone else spends the limit: give budget.share, or lower budget.calls_per_minute"
        case FailureKind.REFUSED | FailureKind.UNAUTHORIZED:
            return f"`poller probe {code}` says what is refused and what to do"
        case _:
            return _next_for_slow(practice)


def _next_for_slow(practice: PracticeFacts) -> str:
    code, budget = practice.code, practice.budget
    if budget.part < 1:
        return f"429s have cut the pace to {budget.part:.0%}; who else reads the practice? Give budget.share"
    if budget.used >= _NEARLY_ALL * budget.leave:
        return f"all calls are used: `poller plan {code}` says what schedules cost; make some less frequent"
    return f"`poller plan {code}` says whether calls suffice; if they do, {_LOG}"


def next_for_pause(reason: str, code: str) -> str:
    """What to do about what the poller has paused by itself, by the first words of why (:class:`poller.core.pause.Reason`)."""
    if reason.startswith("no access"):
        return f"has the practice activated the app, is the key published? `poller probe {code}` says more; it is tried again by itself"
    if reason.startswith("unreachable"):
        return (
            f"look at the network, the proxy and base_url; `poller probe {code}` says more; it is tried again by itself"
        )
    return f"`poller probe {code}` says what is refused and what to do; it is tried again by itself"


def next_for_parked(reason: str, sink: str, code: str) -> str:
    """What to do about parked events, by the first words of why."""
    then = f"then `poller sinks release {sink} {code}`"
    if reason.startswith("unroutable"):
        return f"bind a queue to the exchange of {sink} again, {then}"
    if reason.startswith("too large"):
        return f"raise the broker's largest message or lower attachments.max_bytes, {then}"
    return f"`poller sinks show {sink} --practice {code}` lists them; mend the cause, {then}"


def next_for_sink(trouble: str | None, sink: str) -> str:
    """What to do about a sink that does not go on, by the first words of what the relay has said of it."""
    said = trouble or ""
    if said.startswith("unroutable"):
        return f"bind a queue to the exchange of {sink} again; the poller makes its own again by itself at the next try"
    if said.startswith("not taken"):
        return "let the queue's consumers catch up, or raise its limit; or bring its leader back. Events wait, in order"
    if said.startswith("another relay"):
        return "stop the other relay: two pollers must not have a sink's exchange in common"
    if said.startswith("the broker"):
        return "look at the broker, broker.url, its login and the network; it goes on by itself when the broker is back"
    if trouble is not None:
        return "mend that; it is tried again by itself"
    return "look at the broker: is a queue full, unbound or gone, is it in reach? /readyz and action=relay.* say which"


def next_for_removed(code: str, parked_at: str | None) -> str:
    """What to do about what is left of a practice that is configured no more; ``parked_at``: the sink where some of it is parked."""
    give_up = f"; `poller sinks discard {parked_at} {code}` gives up what is parked" if parked_at is not None else ""
    return f"put {code} back into practices until its events have gone out{give_up}"


def next_for_failure(code: str) -> str:
    """What to do about an error that a practice begins again after, by our code, or Postgres's."""
    if code == "key-missing":
        return "name the master key in encryption.keys again, then `poller reload`; `poller keys list` says which one is missing"
    if code == "store-unreachable" or code.startswith(("SQLSTATE 08", "SQLSTATE 53", "SQLSTATE 57")):
        return "look at Postgres and at its log; it goes on by itself when that is mended"
    if code == "defect" or code.startswith("SQLSTATE"):
        return "a defect, most likely: report it with what the log says (action=practice.restart); it is tried again by itself"
    return f"see {code} in the runbook, and action=practice.restart in the log; it is tried again by itself"


def next_for_source(source: str, code: str) -> str:
    """What to do about a source of patients that cannot be gone through."""
    if source == "roster":
        return f"mend the file that patients.roster names, which is read again by itself; `poller coverage {code}` says whom it named"
    return f"ask the practice for the Group of patients.group, which is tried again by itself; `poller probe {code}` says what is served"


def ago(moment: dt.datetime, now: dt.datetime) -> str:
    """How long ago, in its largest unit, e.g. ``5h ago``."""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
