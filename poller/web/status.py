"""``/healthz``, ``/readyz`` and ``/metrics``, served by uvicorn on a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from poller.errors import PollerError

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


class StatusServer:
    """Serves the application until closed."""

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        """Listen at once, so that a port in use is an error at the start. Raises PollerError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()  # two that only bind would not notice each other
        except OSError as error:
            self._socket.close()
            raise PollerError(
                f"http.listen {host}:{port} cannot be used ({error.strerror}); name another port, or 0 for any"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(status_app(readiness), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="status", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._socket.close()
