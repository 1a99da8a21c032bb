"""Practices that change what they allow while they are read: a feed goes on by another way or is late, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.contract.parts.behaviour import Case, behaves
from tests.contract.parts.play import Bench
from tests.contract.parts.table import ALSO_REFUSED, ALSO_TURNED, REFUSED, TURNED, and_in_soak

pytestmark = pytest.mark.usefixtures("silent")


@pytest.mark.parametrize("case", and_in_soak(TURNED, ALSO_TURNED), ids=str)
def test_the_feed_goes_on_by_the_next_way(stage: Bench, case: Case) -> None:
    behaves(stage, case)


@pytest.mark.parametrize("case", and_in_soak(REFUSED, ALSO_REFUSED), ids=str)
def test_a_way_that_is_refused_shows_as_late_and_catches_up_when_it_is_allowed(stage: Bench, case: Case) -> None:
    behaves(stage, case)
