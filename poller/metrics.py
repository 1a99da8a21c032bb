"""Prometheus metrics. Labels name practices, feeds and sinks, never a patient, an id or a query."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PASSES = Counter("poller_passes", "Passes ended, by what they proved.", ["practice", "feed", "kind", "coverage"])
CALLS = Counter("poller_calls", "Calls to the source, by purpose and outcome.", ["practice", "purpose", "outcome"])
CALL_SECONDS = Histogram(
    "poller_call_seconds",
    "Time from request to whole answer.",
    ["practice"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
PERMIT_WAIT_SECONDS = Histogram(
    "poller_permit_wait_seconds",
    "Time a call waited for the rate budget.",
    ["practice"],
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300),
)
LOCKED_OUT = Counter("poller_locked_out", "429 answers: no calls until the minute has turned.", ["practice"])
CHANGES = Counter("poller_changes", "Changes recorded.", ["practice", "feed", "action", "origin"])
OUTDATED = Counter(
    "poller_outdated", "Resources left for another read because a newer one was stored.", ["practice", "feed"]
)
FOUND_ONLY_BY_SWEEP = Counter(
    "poller_found_only_by_sweep", "Changes that windows missed and a sweep found.", ["practice", "feed"]
)
LATE = Gauge(
    "poller_feed_late", "1 if a target of the feed is owed a whole read that did not come.", ["practice", "feed"]
)
LAST_WHOLE_READ = Gauge(
    "poller_feed_oldest_read_timestamp",
    "When the feed's oldest target was last read whole, unix time.",
    ["practice", "feed"],
)
HELD_DELETES = Gauge("poller_held_deletes", "Deletes that wait for the operator.", ["practice"])
SINK_LAG = Gauge("poller_sink_lag_events", "Events in the log that the sink has not passed.", ["sink", "practice"])
PUBLISHED = Counter("poller_published", "Events confirmed by the broker.", ["sink", "practice"])
REFUSED = Gauge("poller_sink_refused", "1 while the broker refuses the sink's next event.", ["sink", "practice"])
