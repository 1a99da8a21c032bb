"""Commands that print what consumers and editors may rely on, generated from the code."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from poller.app import sinks_of
from poller.commands.options import load
from poller.config.schema import config_schema
from poller.core.report_schema import reconcile_schema, status_schema, verify_schema, why_schema
from poller.core.schema import asyncapi, data_schema, event_schema
from poller.core.sink import Payload, Sink

app = typer.Typer(help="Schemas of events and configuration, AsyncAPI of the queues.", no_args_is_help=True)

_SHIPPED = (
    Sink("changes", "fhir.changes", ("fhir.changes.all",), "id-only"),
    Sink("full", "fhir.changes.full", ("fhir.changes.full.all",), "full-resource"),
)
"""As config/poller.yaml has them; the committed document is of these."""

PayloadOption = Annotated[Literal["id-only", "full-resource"] | None, typer.Option(help="Only this payload.")]


def documents() -> dict[str, dict[str, Any]]:
    """Every document that is committed, by file name."""
    payloads: tuple[Payload, Payload] = ("id-only", "full-resource")
    return {
        "event.1.json": event_schema(),
        **{f"data.{payload}.1.json": data_schema(payload) for payload in payloads},
        "config.1.json": config_schema(),
        "status.1.json": status_schema(),
        "why.1.json": why_schema(),
        "verify.1.json": verify_schema(),
        "reconcile.1.json": reconcile_schema(),
        "asyncapi.json": asyncapi(_SHIPPED, version("ehr-poller")),
    }


def written(document: dict[str, Any]) -> str:
    """The document as it is printed and committed."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@app.command()
def event(payload: PayloadOption = None) -> None:
    """The JSON Schema (draft-07) of an event.

    Exits 0. Example: poller schema event --payload id-only
    """
    typer.echo(written(event_schema(payload)), nl=False)


@app.command("config")
def config_() -> None:
    """The JSON Schema (draft-07) of the configuration file, for an editor.

    Exits 0. Example: poller schema config > poller.schema.json
    """
    typer.echo(written(config_schema()), nl=False)


@app.command()
def status() -> None:
    """The JSON Schema (draft-07) of `poller status --json`.

    Exits 0. Example: poller schema status
    """
    typer.echo(written(status_schema()), nl=False)


@app.command()
def why() -> None:
    """The JSON Schema (draft-07) of `poller why --json`.

    Exits 0. Example: poller schema why
    """
    typer.echo(written(why_schema()), nl=False)


@app.command()
def verify() -> None:
    """The JSON Schema (draft-07) of `poller verify --json`.

    Exits 0. Example: poller schema verify
    """
    typer.echo(written(verify_schema()), nl=False)


@app.command()
def reconcile() -> None:
    """The JSON Schema (draft-07) of `poller reconcile --json`.

    Exits 0. Example: poller schema reconcile
    """
    typer.echo(written(reconcile_schema()), nl=False)


@app.command("asyncapi")
def asyncapi_(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Of the sinks of this file; without, of the shipped ones.")
    ] = None,
) -> None:
    """AsyncAPI 3.0 of exchanges, queues and messages.

    Exits 0, or 2 for the configuration. Example: poller schema asyncapi --config config/poller.yaml
    """
    sinks = sinks_of(load(config)) if config is not None else _SHIPPED
    typer.echo(written(asyncapi(sinks, version("ehr-poller"))), nl=False)


@app.command("all")
def all_(out: Annotated[Path, typer.Option(help="Directory for the files.")]) -> None:
    """Write every document to a directory, as the package carries them in poller/schemas.

    Exits 0 when they are written. Example: poller schema all --out poller/schemas
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        (out / name).write_text(written(document), "utf-8")
