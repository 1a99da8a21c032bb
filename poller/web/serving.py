"""An application served by uvicorn on a thread of its own."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from poller.errors import PollerError


class Server:
    """Serves an application until closed. Says nothing of a request: paths name patients."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, setting: str, tls: tuple[Path, Path] | None = None
    ) -> None:
        """Listen at once, so that a port in use is an error at the start. Raises PollerError, which names ``setting``.

        ``tls``: files of certificate and key.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()  # two that only bind would not notice each other
        except OSError as error:
            self._socket.close()
            raise PollerError(
                f"{setting} {host}:{port} cannot be used ({error.strerror}); name another port, or 0 for any"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        certificate, key = tls if tls is not None else (None, None)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name=setting.partition(".")[0], daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._socket.close()
