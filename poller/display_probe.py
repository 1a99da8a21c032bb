"""What `poller probe` prints: of each feed whether and how it can be read, and what to do; then of the practice. No ids."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Column, Table

from poller.config import PracticeConfig
from poller.core.capability import Finding, PracticeReport, TypeReport
from poller.core.ladder import Footing, choose

WIDTH = 100

_READABLE = {True: "yes", False: "NO", None: "?"}

_BRIEF = {Finding.YES: "yes", Finding.NO: "refused"}


def show(report: PracticeReport, practice: PracticeConfig, console: Console) -> None:
    """Print the report, no wider than :data:`WIDTH`."""
    console.width = min(console.width, WIDTH)
    console.print(table(report, practice))
    for line in lines(report, practice):
        console.print(line, highlight=False, markup=False, soft_wrap=False)


def table(report: PracticeReport, practice: PracticeConfig) -> Table:
    """One row a feed."""
    made = Table(
        Column("feed", width=16, overflow="fold"),
        Column("readable", width=8),
        Column("read by", width=11, overflow="fold"),
        Column("_lastUpdated", width=13),
        Column("$everything", width=11),
        Column("several", width=8),
        Column("why, what to do", width=25),
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for feed in practice.feeds:
        if (found := report.types.get(feed)) is not None:
            made.add_row(
                feed,
                _READABLE[found.readable],
                read_by(found, practice, report),
                found.last_updated.value,
                everything(found),
                _BRIEF.get(found.several_patients, found.several_patients.value),
                what_to_do(found),
            )
    return made


def read_by(found: TypeReport, practice: PracticeConfig, report: PracticeReport) -> str:
    """The rung that follows from the report, broken at its hyphen; what has failed in operation is not known here."""
    forced, forbidden = practice.strategy_of(found.resource_type), practice.forbidden(found.resource_type)
    rung = choose(Footing(offers=found.offers), forced, forbidden, report.probed_at)
    return rung.value.replace("-", "-\n") if rung is not None else "-"


def everything(found: TypeReport) -> str:
    """What becomes of ``$everything``, and of ``_since`` with it."""
    if found.everything is not Finding.YES:
        return _BRIEF.get(found.everything, found.everything.value)
    since = found.everything_since
    if since is Finding.UNTESTED:
        return "yes"
    return "yes, _since" if since is Finding.YES else f"yes, _since {_BRIEF.get(since, since.value)}"


_MEANING = (
    ("$everything", "everything", Finding.DIFFERS, "$everything leaves out or alters what searches show"),
    ("several", "several_patients", Finding.DIFFERS, "several patients: some are left out"),
    ("several", "several_patients", Finding.FIRST, "several patients: only the first is answered"),
    ("several", "several_patients", Finding.IGNORED, "several patients: others are shown"),
)


def what_to_do(found: TypeReport) -> str:
    """Why a feed cannot be read and what would help; or what is not as it should be with one that can."""
    if not found.readable:
        return found.why.value + (f": {found.advice}" if found.advice else "")
    said = [found.advice] if found.advice else []
    said += [words for _, name, finding, words in _MEANING if getattr(found, name) is finding]
    if found.unproven:
        said.append("unproven: no patient asked about had any; asked again later")
    if not found.settled:
        said.append("some answers were not clear; asked again soon")
    return "; ".join(said)


def lines(report: PracticeReport, practice: PracticeConfig) -> Iterator[str]:
    """What holds for the practice."""
    yield f"practice {practice.code}: asked {report.probed_at:%Y-%m-%d %H:%M:%S} UTC by the {report.by}, {report.calls} calls"
    yield f"token: {_token(report)}"
    if report.token.granted:
        yield f"server: {_server(report)}"
        yield f"bulk export: {_export(report)}"
        yield f"also: {_also(report)}"
        yield f"measured: {_measured(report)}"
    refused = [feed for feed, found in report.types.items() if found.readable is False and feed in practice.feeds]
    unclear = [feed for feed, found in report.types.items() if found.readable is None and feed in practice.feeds]
    if report.trouble is not None:
        yield f"the practice cannot be read: {report.trouble.value}"
    elif refused or unclear:
        yield "; ".join(
            [f"cannot be read: {', '.join(refused)}"] * bool(refused)
            + [f"not clear: {', '.join(unclear)}"] * bool(unclear)
        )
    else:
        yield "all feeds can be read"


def _token(report: PracticeReport) -> str:
    token = report.token
    if not token.needed:
        return "none is needed, says the configuration"
    if not token.granted:
        status = f" ({token.status})" if token.status is not None else ""
        return f"NONE{status}: {token.why}"
    scopes = "granted" if token.scopes is None else f"granted, scopes: {len(token.scopes)}"
    refused = f"; refused with any of: {', '.join(token.refused)}" if token.refused else ""
    return scopes + refused


def _server(report: PracticeReport) -> str:
    smart = report.smart
    found = "no smart-configuration"
    if smart.found:
        able = [word for word, has in (("private_key_jwt", smart.private_key_jwt), ("RS384", smart.rs384)) if has]
        found = f"smart-configuration names {', '.join(able) or 'no way of ours to sign in'}"
    fhir = f", FHIR {report.fhir_version}" if report.fhir_version else ""
    return f"{report.software or 'unnamed'}{fhir}; {found}"


def _export(report: PracticeReport) -> str:
    declared = f"declared for {', '.join(report.export.declared)}" if report.export.declared else "not declared"
    scope = {True: "Group may be read", False: "the token does not cover Group", None: "scope not known"}
    return f"{declared}; {scope[report.export.scope]}; no job was started to try it"


def _also(report: PracticeReport) -> str:
    asked = (
        ("_since on Observation", "since"),
        ("days of Encounter by practitioner", "day_windows"),
        ("_count", "count"),
        ("reads answered 304", "conditional"),
    )
    said = []
    for words, name in asked:
        found = [finding for one in report.types.values() if (finding := getattr(one, name)) is not Finding.UNTESTED]
        said += [f"{words} {_BRIEF.get(found[0], found[0].value)}"] if found else []
    return ", ".join(said) or "nothing else was asked"


def _measured(report: PracticeReport) -> str:
    latency = f"{report.latency_seconds:.1f} s a call" if report.latency_seconds is not None else "no call answered"
    ahead = report.clock_offset_seconds
    clock = f"clock {ahead:+.0f} s" if ahead is not None else "clock not told"
    page = f"pages of {report.page_size}" if report.page_size is not None else "no second page seen"
    return f"{latency}, {clock}, {page}, by {report.patients} patients"


def is_degraded(report: PracticeReport, practice: PracticeConfig) -> bool:
    """Whether a feed of the configuration cannot be read, as far as is known."""
    return not all(report.types[feed].readable if feed in report.types else False for feed in practice.feeds)
