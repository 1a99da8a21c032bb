"""The command that forgets a practice or a patient."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from poller.app import Installation
from poller.commands.options import DEFAULT_CONFIG, Actor, AsJson, ConfigOption, a_text, load
from poller.core.forget import Forgotten
from poller.errors import BadInput, Code, ConfigError, StoreError
from poller.forgetting import CERTIFICATE, Live, forget_patient, forget_practice


def forget(
    practice: Annotated[
        str,
        typer.Argument(help="Code of the practice, which need not be in the configuration any more.", callback=a_text),
    ],
    actor: Actor,
    to: Annotated[Path, typer.Option(help="A new directory, for the certificate and what the audit had.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with who asks. Name no patient.", callback=a_text)],
    patient: Annotated[str | None, typer.Option(help="Only this patient, by id.", callback=a_text)] = None,
    vacuum: Annotated[
        bool,
        typer.Option(
            "--vacuum", help="Also write all tables anew, so that no page holds a byte. Locks them meanwhile."
        ),
    ] = False,
    although: Annotated[
        list[str],
        typer.Option(help="Name of a poller that is no more, and whose last configuration names the practice."),
    ] = [],  # noqa: B006 - Typer copies it
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Delete all that there is of a practice, or of a patient, and certify it. Nothing brings it back.

    A practice: its state, history, events, parked events, key, audit and the queues that were its alone. First take it out of the
    configuration and `poller reload`. A patient: all but the audit, once every sink has had their events; what the source still shows of
    them is not taken up again. The certificate names what is out of reach: backups, consumers, queues that others use as well.

    Example: poller forget FAMLYM --reason "contract ended" --to /srv/certificates/famlym --vacuum

    Exits 0 when it is done, 2 for a practice that is configured still, 4 for the store, 5 if the store has forgotten but the queues could
    not be reached, 6 where there is nothing to forget.
    """
    loaded = load(config)
    if patient is None and practice in loaded.practices:
        raise ConfigError(
            [f"practice {practice} is in {config}: take it out and `poller reload`, else it would be read again"]
        )
    whom = patient.removeprefix("Patient/") if patient is not None else None
    if whom == "":
        raise BadInput("--patient: no id; write it as the server does")
    if not yes:
        what = f"all of practice {practice}" if patient is None else f"all of one patient of practice {practice}"
        typer.confirm(f"Delete {what}, for good?", abort=True)
    who = Forgotten(practice, whom, actor, reason, dt.datetime.now(dt.UTC))
    queues = frozenset(queue for sink in loaded.sinks.values() for queue in sink.queues)
    here = Live(frozenset(loaded.sinks), queues)
    with Installation(loaded) as installation:
        if not installation.has_store:
            raise StoreError(f"there is no store in {loaded.data_dir} yet; nothing was ever kept", Code.STORE_MISSING)
        if whom is None:
            broker, store = installation.eraser(), installation.forgetting
            said = forget_practice(store, broker, who, here, to, vacuum=vacuum, although=although)
        else:
            said = forget_patient(installation.forgetting, who, here, to, vacuum=vacuum)
    _tell(said, to, as_json=as_json)


def _tell(said: dict[str, Any], to: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(said))
        return
    typer.echo(
        f"{sum(said['rows'].values())} rows and {len(said['queues'])} queues are gone; see {to / CERTIFICATE}. Out of reach:"
    )
    for one in said["outOfReach"]:
        typer.echo(f"- {one}")
