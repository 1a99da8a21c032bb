"""``/healthz``, ``/readyz`` and ``/metrics``, served by uvicorn on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from poller.web.serving import Server

Readiness = Callable[[], Mapping[str, str]]
"""Part of the engine → "ok", or what is wrong with it."""


def status_app(readiness: Readiness) -> Starlette:
    """The application. ``readiness`` is called on a thread and may ask the database."""

    def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(_request: Request) -> Response:
        parts = dict(readiness())
        ready = all(said == "ok" for said in parts.values())
        return JSONResponse(
            {"status": "ok" if ready else "not ready", "parts": parts}, status_code=200 if ready else 503
        )

    def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])


class StatusServer(Server):
    """Serves the application until closed."""

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        """Listen at once. Raises PollerError when the port is in use."""
        super().__init__(status_app(readiness), host, port, setting="http.listen")
