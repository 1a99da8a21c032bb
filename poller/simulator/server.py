"""The simulator on the network: an ASGI app, and a server of its own thread around it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from poller.clock import AnchoredClock
from poller.simulator.answers import Front
from poller.simulator.bulk import POLL
from poller.simulator.control import control_routes
from poller.simulator.exchange import FHIR_ROOT, TOKEN_PATH, Answer, Request, Stream
from poller.simulator.world import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from starlette.types import Receive, Scope, Send

    from poller.simulator.world import World

_START_SECONDS = 10.0


class CutOff(ConnectionError):  # noqa: N818 - no error of ours: done on purpose
    """The simulator drops this connection on purpose, in the middle of an answer."""


class _Sent(Response):
    """An answer on its way: held, cut off or whole; its calls are finished when it has gone."""

    def __init__(self, answer: Answer, clock: Callable[[], dt.datetime]) -> None:
        super().__init__(answer.body, answer.status, media_type=answer.content_type)
        self._answer = answer
        self._clock = clock
        for name, value in answer.headers:
            self.headers[name] = value
        if answer.announced is not None:
            self.headers["content-length"] = str(answer.announced)
        if answer.stream is not None:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if self._answer.delay:
            await asyncio.sleep(self._answer.delay)
        try:
            if self._answer.stream is not None:
                await self._flow(self._answer.stream, send)
                return
            if self._answer.announced is None:
                await super().__call__(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            raise CutOff
        finally:
            for call in self._answer.calls:
                call.finished, call.finished_at = time.monotonic(), self._clock()

    async def _flow(self, stream: Stream, send: Send) -> None:
        """Send a body chunk by chunk, as far as it goes."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        left = stream.size if stream.until is None else stream.until
        for chunk in stream.chunks():
            await send({"type": "http.response.body", "body": chunk[:left], "more_body": True})
            left -= len(chunk)
            if left <= 0:
                break
        if stream.until is not None and not stream.silent:
            raise CutOff
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def create_app(world: World, clock: Callable[[], dt.datetime] | None = None) -> Starlette:
    """The simulator as an ASGI app, for a server or ``httpx.ASGITransport``. ``clock`` tells the true time, aware."""
    tell = clock or AnchoredClock(dt.datetime.now(dt.UTC), time.monotonic()).now
    front = Front(world)

    async def serve(http: HttpRequest) -> Response:
        arrived, now = time.monotonic(), tell()
        form = dict(parse_qsl((await http.body()).decode("utf-8", "replace"))) if http.method == "POST" else {}
        request = Request(
            path=http.url.path,
            query=tuple(http.query_params.multi_items()),
            authorization=http.headers.get("authorization", ""),
            root=f"{http.url.scheme}://{http.url.netloc}",
            arrived=arrived,
            now=now,
            form=form,
            method=http.method,
            headers=dict(http.headers),
        )
        with world.lock:
            return _Sent(front.answer(request), tell)

    return Starlette(
        routes=[
            Route(TOKEN_PATH, serve, methods=["POST"]),
            *control_routes(world, tell),
            Route(FHIR_ROOT + "{code}/" + POLL, serve, methods=["GET", "DELETE"]),
            Route(FHIR_ROOT + "{rest:path}", serve, methods=["GET"]),
            Route("/{rest:path}", serve, methods=["GET"]),
        ]
    )


class SimulatorServer:
    """The simulator on a port of loopback, in a thread of its own, as a context manager.

    ``port`` 0 takes a free one; OSError if it is taken.
    With ``changes_per_second`` the practices live in real time; without, only what is done by hand happens.
    """

    def __init__(
        self, world: World, *, port: int = 0, host: str = "127.0.0.1", changes_per_second: float | None = None
    ) -> None:
        self.world = world
        self.clock: Callable[[], dt.datetime] = AnchoredClock(dt.datetime.now(dt.UTC), time.monotonic()).now
        self._rate = changes_per_second
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self._address = self._socket.getsockname()
        self._failed: BaseException | None = None
        settings = uvicorn.Config(
            create_app(world, self.clock), log_config=None, log_level="critical", access_log=False, lifespan="off",
            date_header=False, server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)

    @property
    def root(self) -> str:
        """Scheme, host and port."""
        return f"http://{self._address[0]}:{self._address[1]}"

    @property
    def token_url(self) -> str:
        """Where tokens are given out."""
        return self.root + TOKEN_PATH

    def base_url(self, code: str) -> str:
        """FHIR base of a practice."""
        return f"{self.root}{FHIR_ROOT}{code}"

    def start(self) -> None:
        """Serve; returns when requests are taken. Raises RuntimeError when the server does not come up."""
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the simulator did not start") from self._failed
            self._thread.join(0.005)

    def stop(self) -> None:
        """Stop serving and changing."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_START_SECONDS)
        self._socket.close()

    def quiet(self) -> None:
        """Stop changing, go on serving."""
        self.world.quiet()

    def wait(self) -> None:
        """Until the server has been stopped."""
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - told by start(), which waits for this thread
            self._failed = error

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_ignore_cut_off)
        stop = asyncio.Event()
        living = asyncio.create_task(run(self.world, self._rate or 0.0, stop, self.clock))
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await living


def _ignore_cut_off(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), CutOff):
        loop.default_exception_handler(context)
