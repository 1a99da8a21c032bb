"""What differs between two configurations: all of it, nothing else, whatever they hold."""

from __future__ import annotations

import datetime as dt
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poller.config import Config, PracticeConfig
from poller.config.difference import changes, difference, flat, without_feeds

CODES = ("ANNA", "BERT", "CARL")
TYPES = ("Patient", "Encounter", "Condition", "Observation")
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
minutes = st.integers(1, 90).map(lambda number: dt.timedelta(minutes=number))
feeds = st.fixed_dictionaries(
    {"every": minutes},
    optional={
        "sweep_every": minutes,
        "page_size": st.integers(1, 1000),
        "parameters": st.dictionaries(st.sampled_from(["status", "code"]), st.sampled_from(["active", "final"])),
        "forbid": st.sets(st.sampled_from(["window", "sweep"])).map(lambda rungs: tuple(sorted(rungs))),
    },
)
sinks = st.fixed_dictionaries(
    {"exchange": st.sampled_from(["x", "y"]), "queues": st.just(("q",))},
    optional={"payload": st.sampled_from(["id-only", "full-resource"])},
)


@st.composite
def practices(draw: st.DrawFn, code: str) -> dict[str, Any]:
    return {
        "code": code,
        "base_url": f"https://ehr.example/{draw(st.sampled_from('ab'))}/{code}",
        "client_id": "app",
        "key": {"env": draw(st.sampled_from(["KEY", "OTHER_KEY"]))},
        "timeout": draw(minutes),
        "feeds": draw(st.dictionaries(st.sampled_from(TYPES), feeds, min_size=1)),
        **draw(st.sampled_from([{}, {"bulk": {"group": "g"}}, {"patients": {"roster": None, "names": ("a",)}}])),
    }


@st.composite
def configs(draw: st.DrawFn) -> Config:
    codes = draw(st.sets(st.sampled_from(CODES), min_size=1))
    return Config.model_validate(
        {
            "practices": {code: draw(practices(code)) for code in sorted(codes)},
            "sinks": draw(st.dictionaries(st.sampled_from(["one", "two"]), sinks)),
            "http": {"listen": draw(st.sampled_from(["127.0.0.1:1", "127.0.0.1:2"]))},
            "logging": {"level": draw(st.sampled_from(["info", "debug"]))},
        }
    )


@few
@given(configs(), configs())
def test_nothing_differs_exactly_where_the_two_are_the_same(before: Config, after: Config) -> None:
    found = difference(before, after)
    assert (found.lines() == []) == (before == after)
    assert (found == difference(after, before)) == (before == after)


@few
@given(configs(), configs())
def test_every_practice_and_sink_that_differs_is_named_once_and_no_other(before: Config, after: Config) -> None:
    found = difference(before, after)
    for named, was, now in (
        (found.practices, before.practices, after.practices),
        (found.sinks, before.sinks, after.sinks),
    ):
        assert set(named.begin) == now.keys() - was.keys()
        assert set(named.end) == was.keys() - now.keys()
        assert set(named.changed) == {name for name in was.keys() & now.keys() if was[name] != now[name]}
        assert all(named.changed.values()), "what changed can be said"
    assert found.touches_relay == (before.practices != after.practices or before.sinks != after.sinks)


@few
@given(configs(), configs())
def test_what_was_taken_with_what_changed_gives_what_is(before: Config, after: Config) -> None:
    """Told differences are enough to come from one to the other, and back."""
    was, now = dict(flat(before)), dict(flat(after))
    found = changes(before, after)
    for change in found:
        assert (was.get(change.key), now.get(change.key)) == (change.before, change.after)
        was.pop(change.key, None)
        if change.after is not None:
            was[change.key] = change.after
    assert was == now


@few
@given(configs(), configs())
def test_only_what_runs_beside_practices_and_sinks_needs_a_restart(before: Config, after: Config) -> None:
    found = difference(before, after)
    assert [change.key for change in found.needs_restart] == (["http.listen"] if before.http != after.http else [])


@few
@given(configs(), st.sets(st.sampled_from(TYPES)))
def test_without_feeds_all_else_is_the_same(config: Config, left_out: set[str]) -> None:
    for practice in config.practices.values():
        found = without_feeds(practice, frozenset(left_out))
        kept = {name: feed for name, feed in practice.feeds.items() if name not in left_out}
        if not kept:
            assert found is None
            continue
        assert found is not None
        assert found.feeds == kept
        assert found.model_copy(update={"feeds": practice.feeds}) == practice, "its scopes too"


def test_a_secret_is_shown_as_its_place() -> None:
    practice = {
        "code": "A",
        "base_url": "https://ehr.example/A",
        "client_id": "app",
        "key": {"env": "KEY"},
        "feeds": {"Patient": {}},
    }
    before = PracticeConfig.model_validate(practice)
    after = PracticeConfig.model_validate(practice | {"key": {"env": "OTHER"}, "feeds": {"Patient": {"every": "5m"}}})
    assert [str(change) for change in changes(before, after)] == [
        "feeds.Patient.every: none → 5m",
        "key: {env: KEY} → {env: OTHER}",
    ]
