"""The command that says where a resource, or what a patient has, stopped on its way."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from poller import display, display_why
from poller.app import Installation, sinks_of
from poller.commands.audited import note
from poller.commands.options import DEFAULT_CONFIG, AsJson, ConfigOption, Practice, Reason, a_text, installed
from poller.commands.status import in_force_by
from poller.core.audit import Action
from poller.core.health import judge
from poller.core.trace import PatientTrace, ResourceTrace
from poller.core.verdict import judge_patient, judge_resource
from poller.errors import DEGRADED, BadInput, Code, NotFound, StoreError
from poller.health import Scope, facts_of
from poller.tracing import trace_patient, trace_resource

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_RESOURCE = re.compile(r"([A-Z][A-Za-z]{1,63})/([A-Za-z0-9\-.]{1,64})")


def why(
    practice: Practice,
    resource: Annotated[str | None, typer.Argument(help="Type/id, e.g. Observation/lab-1.", callback=a_text)] = None,
    patient: Annotated[
        str | None,
        typer.Option("--patient", help="Instead: all that the patient with this logical id has.", callback=a_text),
    ] = None,
    reason: Reason = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Say where a resource, or what a patient has, stopped on its way to the sinks: named, read, seen, an event, delivered.

    From the store alone. The id is printed, never logged; it is visible in this machine's list of processes meanwhile.

    Example: poller why FAMLYM Observation/lab-1

    Exits 0 if it went as far as the configuration wants, 2 for what is no Type/id, 3 if it stopped before, 4 for the store, 6 for an
    unknown practice.
    """
    asked = _asked(resource, patient)
    with installed(config) as installation:
        if not installation.has_store:
            raise StoreError(
                f"there is no store in {installation.config.data_dir} yet; `poller run` makes it", Code.STORE_MISSING
            )
        trace = _trace(installation, config, practice, asked, reason)
        now = installation.why.now()
    verdict = judge_resource(trace) if isinstance(trace, ResourceTrace) else judge_patient(trace)
    display_why.show(trace, verdict, now, display.console(), in_json=as_json)
    if not verdict.stop.is_as_it_should_be:
        raise typer.Exit(DEGRADED)


def _asked(resource: str | None, patient: str | None) -> tuple[str, str] | str:
    """Type and id, or a patient's id."""
    if (resource is None) == (patient is None):
        raise BadInput("name either a resource as Type/id, e.g. Observation/lab-1, or a patient by --patient ID")
    if resource is not None:
        found = _RESOURCE.fullmatch(resource)
        if found is None:
            raise BadInput("not a resource; write Type/id, e.g. Observation/lab-1")
        return found[1], found[2]
    id_ = (patient or "").removeprefix("Patient/")
    if _ID.fullmatch(id_) is None:
        raise BadInput("not a logical id; letters, digits, - and . are allowed, 64 at most")
    return id_


def _trace(
    installation: Installation, path: Path, practice: str, asked: tuple[str, str] | str, reason: str
) -> ResourceTrace | PatientTrace:
    in_force = in_force_by(installation, path)[1]
    scope = Scope.of(installation.config, in_force)
    if practice not in scope.practices:
        raise NotFound(f"no practice {practice} in the configuration; there are: {', '.join(sorted(scope.practices))}")
    which = {"patient": asked} if isinstance(asked, str) else {"resource": "/".join(asked)}
    note(installation, Action.WHY, practice, reason, **which)
    config = scope.practices[practice]
    seen = installation.status.look([practice])
    health = judge(facts_of(scope, practice, seen, ()), seen.now)
    sinks = sinks_of(in_force or installation.config)
    store, log = installation.why, installation.reading_log
    if isinstance(asked, str):
        return trace_patient(config, health, sinks, store, log, asked)
    written = installation.config.practices.get(practice)
    in_file = written is not None and asked[0] in written.feeds
    return replace(trace_resource(config, health, sinks, store, log, asked), in_file=in_file)
