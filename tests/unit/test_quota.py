from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core import quota
from poller.core.quota import Quota

NOW = dt.datetime(2026, 11, 22, 15, 0, tzinfo=dt.UTC)
EPOCH = int(NOW.timestamp())


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"ratelimit-remaining": "7", "ratelimit-reset": "30"}, Quota(7, 30.0)),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(EPOCH + 20)}, Quota(0, 20.0)),
        ({"x-ratelimit-reset": str(EPOCH - 20)}, Quota(None, 0.0)),
        ({"ratelimit-remaining": "5, 2;w=60"}, Quota(2, None)),
        ({"ratelimit": '"day";r=900;t=40000, "minute";r=0; t=12'}, Quota(0, 60.0)),
        ({"ratelimit-remaining": "-3", "ratelimit-reset": "-3"}, Quota(0, None)),
        ({"ratelimit-remaining": "1000000000000", "ratelimit-reset": "100000000000"}, Quota(None, 60.0)),
        ({"ratelimit-remaining": "none", "ratelimit-reset": "soon", "ratelimit": "r=0;t"}, Quota()),
        ({}, Quota()),
    ],
)
def test_what_is_left_and_until_when(headers: dict[str, str], found: Quota) -> None:
    assert quota.read(headers, NOW) == found


def test_only_a_count_that_ran_out_is_believed() -> None:
    out = Quota(0, 30.0)
    assert quota.hold(Quota(1, 30.0), out) == 30
    assert quota.hold(out, out) == 0, "nought, after we have waited for it: the header does not count"
    assert quota.hold(Quota(), out) == 0, "nought from the first answer on"
    assert quota.hold(Quota(9, 30.0), Quota(8, 30.0)) == 0
    assert quota.hold(Quota(9, 30.0), Quota(0, None)) == 0


number = st.integers(-(10**20), 10**20).map(str)
value = (
    st.text(max_size=30)
    | number
    | st.lists(number).map(",".join)
    | st.tuples(number, number).map(lambda n: f'"a";r={n[0]};t={n[1]}')
)


@given(st.lists(st.dictionaries(st.sampled_from([name.lower() for name in quota.HEADERS]), value), max_size=5))
def test_whatever_headers_say_they_never_speed_and_slow_within_bounds(answers: list[dict[str, str]]) -> None:
    before = Quota()
    for headers in answers:
        said = quota.read(headers, NOW)
        assert said.left is None or said.left >= 0
        assert said.reset is None or 0 <= said.reset <= quota.LONGEST
        assert 0 <= quota.hold(before, said) <= quota.LONGEST
        before = said
