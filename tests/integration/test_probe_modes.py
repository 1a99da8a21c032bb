"""What a survey finds of every mode that the simulator has, and of every manner: the table of verdicts."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from rich.console import Console

from poller import keys
from poller.clock import SystemClock
from poller.config.model import PracticeConfig
from poller.config.secret import Secret
from poller.core.capability import Finding, PracticeReport, TypeReport
from poller.core.model import Strategy
from poller.core.refusals import Why
from poller.display_probe import show
from poller.simulator import modes
from poller.simulator.exchange import TOKEN_PATH
from poller.simulator.server import create_app
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World
from poller.source.connection import open_source
from poller.source.survey import survey
from tests.source_bench import Freely

ROOT = "http://127.0.0.1:1"
CODE = "AAAAAA"
FEEDS = ("Patient", "Observation", "Condition", "Coverage", "ServiceRequest", "Encounter")
SIZE: dict[str, Any] = {"patients": 4, "name_initials": "AB", "limit": 1_000_000, "labs_per_patient": 2}

Surveyed = Callable[..., tuple[PracticeReport, World]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> keys.KeyPair:
    return keys.new_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def key(pair: keys.KeyPair) -> Any:
    """The private key, loaded once: loading checks it, which takes its time."""
    return keys.load_private_key(pair.private_path.read_text())


@pytest.fixture
def surveyed(pair: keys.KeyPair, key: Any, monkeypatch: pytest.MonkeyPatch) -> Surveyed:
    """Surveys a practice that is so many seconds old, and its clock so many ahead; returns the report, and the world to look at."""
    monkeypatch.setattr(keys, "load_private_key", lambda _pem: key)

    def run(
        spec: PracticeSpec, *, age: float = 0, ahead: float = 0, sample: int = 0, **config: Any
    ) -> tuple[PracticeReport, World]:
        world = World([spec], now=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age))
        world.set_faults(CODE, skew_seconds=ahead)
        world.register(keys.jwks([(pair.kid, pair.private_key.public_key())]))
        for name in ("cov-1", "cov-2"):  # one of two patients each: the simulator's histories have no Coverage
            patient = sorted(world.written(CODE, "Patient"))[int(name[-1]) - 1]
            coverage = {"resourceType": "Coverage", "id": name, "status": "active"}
            beneficiary = {"beneficiary": {"reference": f"Patient/{patient}"}}
            if spec.coverage:
                world.put(CODE, coverage | beneficiary, world.began)

        given = {
            "code": CODE,
            "base_url": f"{ROOT}/fhir/r4/{CODE}",
            "token_url": ROOT + TOKEN_PATH,
            "client_id": spec.client,
            "key": Secret(file=pair.private_path, env=None),
            "feeds": {feed: {} for feed in FEEDS},
            "patients": {"names": ("a", "b")},
        }
        practice = PracticeConfig.model_validate(given | config)

        async def main() -> PracticeReport:
            transport = httpx.ASGITransport(create_app(world))
            async with open_source(practice, Freely(), SystemClock(), transport=transport) as source:
                known = sorted(world.written(CODE, "Patient"))[:sample]
                return await survey(source, list(practice.feeds), known, dt.datetime.now(dt.UTC))

        report = asyncio.run(main())
        shown = repr(report)
        assert not [name for kind in FEEDS for name in world.written(CODE, kind) if name in shown], (
            "an id in the report"
        )
        assert report.calls == len(world.calls(CODE)), "every call counts"
        return report, world

    return run


def verdict(found: TypeReport) -> str:
    """One type's verdict in a line."""
    abilities = (found.everything, found.everything_since, found.several_patients)
    said = found.last_updated.value if found.why is Why.READABLE else found.why.value
    return f"{said} | {' '.join(ability.value for ability in abilities)} | {' '.join(found.offers)}"


def printed(report: PracticeReport) -> dict[str, list[str]]:
    """The words of each feed's first line in the table that `poller probe` prints."""
    given = {"code": CODE, "base_url": "https://ehr.example.org", "auth": "none", "feeds": {kind: {} for kind in FEEDS}}
    out = io.StringIO()
    show(report, PracticeConfig.model_validate(given), Console(file=out, width=100))
    rows = [line.split() for line in out.getvalue().splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0] in FEEDS}


BY_PATIENT = "refused | no - no | patient"
OPENLY = "practice-wide | no - yes | window sweep patients patient"

TABLE: dict[str, str] = {
    "ecw": BY_PATIENT,
    "open": OPENLY,
    "patient-only": "with patient | no - no | patient-window patient",
    "ignored": "ignored | no - yes | sweep patients patient",
    "ecw-ignored": "ignored | no - no | patient",
    "withdrawn": OPENLY,
    "unmoved": OPENLY,  # no search shows it: what windows miss is found by the sweeps beside them
    "everything": "refused | yes no no | everything patient",
    "everything-since": "refused | yes yes no | everything-window everything patient",
    "everything-omits": "refused | differs - no | patient",
    "everything-cuts": "refused | differs - no | patient",
    "several": "refused | no - yes | patients patient",
    "several-first": "refused | no - first only | patient",
    "by-patient": "refused | no - yes | patients patient",
    "bulk": "no token | - - - | ",
    "old-build": BY_PATIENT,
    "not-activated": "not activated | - - - | ",
    "scope-missing": BY_PATIENT,
    "no-authorization": OPENLY,
}
"""Mode → verdict on Observation."""

OTHERS: dict[str, dict[str, str]] = {
    "ecw": {"Patient": "refused | no - yes | patient", "Coverage": BY_PATIENT},
    "everything-omits": {"Condition": "refused | yes no no | everything patient"},
    "everything-cuts": {"Condition": "refused | differs - no | patient"},
    "old-build": {"Coverage": "build too old | - - - | ", "ServiceRequest": "build too old | - - - | "},
    "scope-missing": {"Coverage": "scope not granted | - - - | ", "ServiceRequest": "scope not granted | - - - | "},
    "open": {"Patient": "practice-wide | no - yes | window sweep patient"},
    "by-patient": {"Patient": "refused | no - yes | sweep patient"},
}
"""Mode → verdict on other types, where it is of interest."""


def test_the_table_has_every_mode() -> None:
    assert set(TABLE) == set(modes.MODES)


@pytest.mark.parametrize("mode", modes.MODES)
def test_the_verdicts_on_a_mode(surveyed: Surveyed, mode: str) -> None:
    more = {"auth": "none", "client_id": None, "key": None} if mode == "no-authorization" else {}
    report, _ = surveyed(modes.practice(mode, CODE, **SIZE), **more)
    expected = {"Observation": TABLE[mode]} | OTHERS.get(mode, {})
    assert {kind: verdict(report.types[kind]) for kind in expected} == expected
    for kind, line in expected.items():
        rungs, readable = line.rpartition("| ")[2].split(), report.types[kind].readable
        said = {True: "yes", False: "NO", None: "?"}[readable]
        printed_rung = (rungs[0] if rungs else "-").replace("-w", "- w").split()[0]  # broken at its hyphen
        assert printed(report)[kind][:2] == [said, printed_rung]
    assert all(one.settled for one in report.types.values()) or report.trouble is not None
    assert all(one.reason for one in report.types.values())
    assert report.calls <= 4 + 11 * len(FEEDS) + 24, "few calls; the seven categories of two patients cost twelve more"


def manners(mode: Any = "ecw", **more: Any) -> PracticeSpec:
    return PracticeSpec(CODE, mode, **(SIZE | more))


FEW: dict[str, Any] = {"feeds": {feed: {} for feed in ("Patient", "Observation", "Encounter")}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (manners(), "since=no count=no day_windows=yes conditional=ignored several_patients=yes"),
        (
            manners(since_on_observation="honoured", count="honoured", day_windows=False, conditional=True),
            "since=yes count=yes day_windows=no conditional=yes several_patients=yes",
        ),
        (
            manners(since_on_observation="ignored", count="ignored", several_ids="refused"),
            "since=ignored count=ignored day_windows=yes conditional=ignored several_patients=no",
        ),
        (
            manners("open", conditional=True, several_ids="first"),
            "since=no count=yes day_windows=yes conditional=yes several_patients=first only",
        ),
    ],
)
def test_what_else_a_server_takes(surveyed: Surveyed, spec: PracticeSpec, expected: str) -> None:
    report, _ = surveyed(spec, **FEW)
    of = {"since": "Observation", "count": "Observation", "day_windows": "Encounter"}
    names = ("since", "count", "day_windows", "conditional", "several_patients")
    found = [f"{name}={getattr(report.types[of.get(name, 'Patient')], name).value}" for name in names]
    assert " ".join(found) == expected
    assert report.all_readable


def test_windows_may_be_honoured_though_nothing_is_searched_without_a_parameter(surveyed: Surveyed) -> None:
    report, _ = surveyed(manners("open", practice_wide=False), **FEW)
    found = report.types["Observation"]
    assert (found.whole, found.practice_window, found.patient_window) == (Finding.NO, Finding.YES, Finding.YES)
    assert verdict(found) == "practice-wide | no - yes | patient-window patients patient"


def test_a_window_that_is_refused_after_an_hour_is_not_offered_any_more(surveyed: Surveyed) -> None:
    report, _ = surveyed(modes.practice("withdrawn", CODE, **SIZE), age=4000, **FEW)
    assert verdict(report.types["Observation"]) == "refused | no - yes | sweep patients patient"


@pytest.mark.parametrize("status", ["400", "403", "500"])
def test_a_practice_that_has_not_activated_the_app_is_told_by_one_call(surveyed: Surveyed, status: Any) -> None:
    report, _ = surveyed(manners(not_activated=status), **FEW)
    assert report.trouble is Why.NOT_ACTIVATED
    assert {(one.readable, one.offers, one.settled) for one in report.types.values()} == {(None, (), False)}
    assert report.calls == 1 if status != "500" else report.calls <= 3
    assert report.types["Patient"].advice == "the practice must activate the app"


@pytest.mark.parametrize("wording", ["2024", "2026"])
def test_an_old_build_is_known_by_its_words(surveyed: Surveyed, wording: Any) -> None:
    feeds: dict[str, Any] = {"feeds": {feed: {} for feed in ("Patient", "Coverage", "ServiceRequest")}}
    report, _ = surveyed(manners(build="v1", coverage=False, wording=wording), **feeds)
    said = {kind: (one.why, one.advice) for kind, one in report.types.items() if not one.readable}
    assert said == {
        "Coverage": (Why.OLD_BUILD, "needs build 12.0.2 or later"),
        "ServiceRequest": (Why.OLD_BUILD, "needs a USCDI v3 build"),
    }
    assert not report.all_readable


def test_a_scope_that_was_not_registered_is_found_and_the_others_are_read_without_it(surveyed: Surveyed) -> None:
    report, world = surveyed(manners(missing_scopes=("Coverage",)))
    assert report.token.refused == ("system/Coverage.r",)
    assert (report.types["Coverage"].why, report.types["Coverage"].readable) == (Why.NO_SCOPE, False)
    assert report.types["Observation"].readable
    assert sum(call.kind == "token" for call in world.calls(CODE)) <= 10
    several, _ = surveyed(manners("open", missing_scopes=("Coverage",)))  # which gives a token for the others at once
    assert several.types["Coverage"].why is Why.NO_SCOPE
    assert several.types["Observation"].readable


def test_an_app_for_bulk_export_is_told_which_scope_it_must_ask_for(surveyed: Surveyed) -> None:
    spec = manners(bulk=True)
    without, _ = surveyed(spec, **FEW)
    assert without.token.why == "the app is registered for bulk export: add system/Group.read to scopes"
    assert without.calls == 2
    scopes = tuple(f"system/{kind}.read" for kind in (*FEW["feeds"], "Group"))
    report, _ = surveyed(spec, scopes=scopes, **FEW)
    assert report.all_readable
    assert report.export.scope
    assert report.token.scopes == tuple(sorted(scopes))


def test_what_the_server_says_of_itself_and_how_it_answers(surveyed: Surveyed) -> None:
    report, _ = surveyed(manners("open", page_size=3, labs_per_patient=8), **FEW)
    assert (report.software, report.fhir_version) == ("Open FHIR server 1.6", "4.0.1")
    assert (report.smart.token_endpoint, report.smart.private_key_jwt, report.smart.rs384) == (True, True, True)
    assert report.page_size == 3
    assert surveyed(manners("open", page_size=500), **FEW)[0].page_size is None, (
        "a page of one that was asked for is no page"
    )
    assert report.latency_seconds is not None
    assert report.clock_offset_seconds is not None
    assert abs(report.clock_offset_seconds) < 5
    assert {"patient", "category"} <= set(report.types["Observation"].declared)


def test_the_offset_of_the_servers_clock_is_found(surveyed: Surveyed) -> None:
    report, _ = surveyed(manners(), ahead=600, **FEW)
    assert report.clock_offset_seconds is not None
    assert abs(report.clock_offset_seconds - 600) < 5


def test_known_patients_are_asked_about_without_looking_for_some(surveyed: Surveyed) -> None:
    found, _ = surveyed(manners(), **FEW)
    known, _ = surveyed(manners(), sample=4, **FEW)
    assert {kind: verdict(one) for kind, one in known.types.items()} == {
        kind: verdict(one) for kind, one in found.types.items()
    }
    assert known.patients == 4


def test_what_is_forbidden_is_not_asked_about(surveyed: Surveyed) -> None:
    spec = manners("open", everything="since")
    rungs = ("window", "patient-window", "everything", "everything-window", "patients")
    report, world = surveyed(spec, forbid=rungs, **FEW)
    asked = [(call.path, dict(call.query)) for call in world.calls(CODE)]
    assert not [path for path, query in asked if "$everything" in path or "_lastUpdated" in query]
    assert not [query for path, query in asked if "," in query.get("patient", "")]
    assert report.types["Observation"].offers == (Strategy.SWEEP, Strategy.PATIENT)


def test_a_forced_way_is_taken_as_it_is_in_few_calls(surveyed: Surveyed) -> None:
    report, _ = surveyed(manners(), strategy="sweep", **FEW)
    assert {one.offers for one in report.types.values()} == {(Strategy.SWEEP,)}
    assert {one.readable for one in report.types.values()} == {False}, "it cannot be read so, and the operator is told"
    assert report.calls <= 12
    forced, _ = surveyed(manners(), strategy="patient", **FEW)
    assert forced.all_readable
    assert forced.types["Observation"].count is Finding.UNTESTED
