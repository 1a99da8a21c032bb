"""Where URLs that servers gave lead, and that the token never goes to another host."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.source.address import locate

BASE = "https://ehr.example.org/fhir/r4/FAMLYMED"


@pytest.mark.parametrize(
    "url",
    [
        f"{BASE}/$export-poll-location?job_id=7",
        "http://inside:8080/fhir/r4/FAMLYMED/$export-poll-location?job_id=7",
        "/fhir/r4/FAMLYMED/$export-poll-location?job_id=7",
        "$export-poll-location?job_id=7",
        f"{BASE}/$export-poll-location?job_id=7#x",
    ],
)
@pytest.mark.parametrize("needs_token", [True, False])
def test_what_is_below_our_base_path_is_asked_for_at_our_own_host(url: str, needs_token: bool) -> None:
    found = locate(url, BASE, needs_token=needs_token)
    assert found is not None
    assert (found.url, found.is_ours) == (f"{BASE}/$export-poll-location?job_id=7", True)


FILE = "https://store.example.net/export/Patient.ndjson?signature=abc"


def test_a_file_elsewhere_is_fetched_only_without_a_token_and_over_tls() -> None:
    found = locate(FILE, BASE, needs_token=False)
    assert found is not None
    assert (found.url, found.is_ours) == (FILE, False)
    assert locate(FILE, BASE) is None
    assert locate(FILE.replace("https", "http"), BASE, needs_token=False) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://ehr.example.org/fhir/r4/OTHER/$export-poll-location?job_id=7",
        "https://ehr.example.org/fhir/r4/FAMLYMEDX/x",
        f"{BASE}/../OTHER/x",
        f"{BASE}/%2e%2E/OTHER/x",
        f"{BASE}/a\\..\\b",
        f"{BASE}/a b",
        "https://user:pass@ehr.example.org/fhir/r4/FAMLYMED/x",
        "file:///fhir/r4/FAMLYMED/x",
        "ftp://ehr.example.org/fhir/r4/FAMLYMED/x",
        "https://[::1/fhir/r4/FAMLYMED/x",
        "https://ehr.example.org:99999/fhir/r4/FAMLYMED/x",
        BASE,
        "",
    ],
)
def test_what_may_lead_elsewhere_is_refused(url: str) -> None:
    assert locate(url, BASE) is None


@given(st.text(max_size=60), st.booleans())
def test_the_token_goes_to_our_host_or_nowhere(tail: str, needs_token: bool) -> None:
    for url in (tail, BASE + tail, f"https://{tail}/fhir/r4/FAMLYMED/x", f"//{tail}"):
        found = locate(url, BASE, needs_token=needs_token)
        if found is None:
            continue
        parts = urlsplit(found.url)
        assert found.is_ours == found.url.startswith(f"{BASE}/")
        assert parts.scheme == "https"
        assert not (needs_token and not found.is_ours)


def test_an_address_shows_nothing() -> None:
    assert "signature" not in repr(locate(FILE, BASE, needs_token=False))
