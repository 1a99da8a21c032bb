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
PACE = Gauge("poller_pace", "Calls a minute at which calls leave, as far as 429s leave it.", ["practice"])
LOCKED_OUT = Counter("poller_locked_out", "429 answers: no calls until the minute has turned.", ["practice"])
CHANGES = Counter("poller_changes", "Changes recorded.", ["practice", "feed", "action", "origin"])
OUTDATED = Counter(
    "poller_outdated", "Resources left for another read because a newer one was stored.", ["practice", "feed"]
)
UNREADABLE = Counter(
    "poller_unreadable_entries",
    "Entries of answers that no resource could be made of.",
    ["practice", "feed", "problem"],
)
WITHHELD = Counter(
    "poller_withheld_resources",
    "Resources shown with a security label that the feed skips, each time.",
    ["practice", "feed"],
)
ATTACHMENTS = Counter(
    "poller_attachments",
    "Attachments that were asked for, by what became of them; wanted: to be tried again.",
    ["practice", "state"],
)
UNREADABLE_FEEDS = Gauge(
    "poller_feed_unreadable", "1 while the source is found not to serve the feed at all.", ["practice", "feed"]
)
PAUSED = Gauge("poller_paused", "1 while a feed is left alone; feed * is the whole practice.", ["practice", "feed"])
STEP_DOWNS = Counter("poller_step_downs", "Feeds that left a rung because it failed.", ["practice", "feed", "rung"])
FOUND_ONLY_BY_SWEEP = Counter(
    "poller_found_only_by_sweep", "Changes that windows missed and a sweep found.", ["practice", "feed"]
)
FOUND_BY_RECONCILE = Counter(
    "poller_found_by_reconcile",
    "Changes that a full pass on request found, those left out that windows show as well.",
    ["practice", "feed", "action"],
)
LATE = Gauge(
    "poller_feed_late", "1 if a target of the feed is owed a whole read that did not come.", ["practice", "feed"]
)
LAST_WHOLE_READ = Gauge(
    "poller_feed_oldest_read_timestamp",
    "When the feed's oldest target was last read whole, unix time.",
    ["practice", "feed"],
)
LAST_LOOK = Gauge(
    "poller_last_look_timestamp",
    "When a poller last looked after the practice, paused or not, unix time; its age is what an alert tests.",
    ["practice"],
)
LANE_CALLS = Counter(
    "poller_lane_calls",
    "Calls of passes, by why they began: deadline, owed, index, reconcile, backfill.",
    ["practice", "lane"],
)
FRESHNESS = Histogram(
    "poller_feed_freshness_seconds",
    "Age of a change when the read that found it ended, from halfway between the two reads that it lies between.",
    ["practice", "feed"],
    buckets=(1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 24 * 3_600, 72 * 3_600),
)
PREDICTED = Gauge(
    "poller_feed_predicted_freshness_seconds",
    "Age of a change when it is found, as the planner expects it: median and 95th percentile; category: where it is read by one.",
    ["practice", "feed", "category", "quantile"],
)
HELD_DELETES = Gauge("poller_held_deletes", "Deletes that wait for the operator.", ["practice"])
SINK_LAG = Gauge("poller_sink_lag_events", "Events in the log that the sink has not passed.", ["sink", "practice"])
PUBLISHED = Counter("poller_published", "Events confirmed by the broker.", ["sink", "practice"])
AWAY = Gauge(
    "poller_sink_away",
    "1 while the sink's broker, or the store for it, cannot be used; events wait in the log.",
    ["sink"],
)
REFUSED = Gauge("poller_sink_refused", "1 while the broker refuses the sink's next event.", ["sink", "practice"])
PARKED = Gauge(
    "poller_sink_parked_events",
    "Events that left the stream until someone releases them; at most 1000 are counted.",
    ["sink", "practice"],
)
HELD_HISTORY = Gauge(
    "poller_retention_held_timestamp",
    "Beginning of the oldest month that is past retention and kept because a sink needs it, unix time; 0: none.",
)
API_READS = Counter("poller_api_reads", "Reads by the reading API, by status of the answer.", ["practice", "status"])
PATIENTS = Gauge(
    "poller_patients", "Patients known, gone ones left out, by who has named them.", ["practice", "source"]
)
PAUSED_BY_OPERATOR = Gauge(
    "poller_paused_by_operator",
    "1 while an operator has a feed left alone; feed * is the whole practice.",
    ["practice", "feed"],
)
CONFIG_REVISION = Gauge("poller_config_revision", "The revision of the configuration that is in force.")
CONFIG_REFUSED = Gauge(
    "poller_config_refused", "1 while the configuration file is broken and an earlier revision is in force."
)

OUTGROWN = Gauge(
    "poller_promises_outgrown",
    "1 while a practice's exact schedules or max_staleness, kept when they were accepted, ask for more calls than there are.",
    ["practice"],
)


def forget(practice: str, feed: str | None = None) -> None:
    """Take a practice, or one feed of it, out of what is shown: else what it showed last would stand for ever."""
    labels = {"practice": practice} | ({"feed": feed} if feed is not None else {})
    for gauge in (UNREADABLE_FEEDS, PAUSED, PAUSED_BY_OPERATOR, LATE, LAST_WHOLE_READ):
        gauge.remove_by_labels(labels)
    if feed is None:
        for gauge in (HELD_DELETES, PATIENTS, PACE, LAST_LOOK):
            gauge.remove_by_labels(labels)


def forget_sink(sink: str) -> None:
    """Take a sink out of what is shown."""
    for gauge in (SINK_LAG, REFUSED, AWAY):
        gauge.remove_by_labels({"sink": sink})


def forget_stream(sink: str, practice: str) -> None:
    """Take a practice at a sink out of what is shown."""
    for gauge in (SINK_LAG, REFUSED, PARKED):
        gauge.remove_by_labels({"sink": sink, "practice": practice})
