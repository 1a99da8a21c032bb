"""``poller simulator``: two practices to poll, on loopback, until stopped."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import structlog

from poller import keys
from poller.core import jsontext
from poller.errors import ConfigError
from poller.simulator import modes
from poller.simulator.server import SimulatorServer
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

PORT = 8765
CHANGES_PER_SECOND = 3.0
DEMO_CLIENT = "poller-demo"
_SECONDS_A_DAY = 2.0 / 86_400
"""Tempo of the demo: a clinical day goes by in two seconds."""

DEMO_PRACTICES = (
    PracticeSpec(
        "DEMOEC",
        "ecw",
        patients=4,
        max_patients=5,
        name_initials="ABCD",
        tempo=_SECONDS_A_DAY,
        page_size=50,
        client_id=DEMO_CLIENT,
    ),
    PracticeSpec("DEMOOP", "open", patients=12, tempo=_SECONDS_A_DAY, page_size=100, client_id=DEMO_CLIENT),
)
"""Small enough that 250 calls a minute read every patient of DEMOEC, six searches each, within nine seconds."""


def demo_practices(mode: str | None = None) -> tuple[PracticeSpec, ...]:
    """The demo's practices; with ``mode``, that of the same kind of server with its manners. ConfigError for no such mode."""
    try:
        return modes.among(DEMO_PRACTICES, mode) if mode is not None else DEMO_PRACTICES
    except ValueError as error:
        raise ConfigError([str(error)]) from None


def public_keys(path: Path) -> dict[str, Any]:
    """The JWKS of a file: itself, or of the public half of a PEM private key, named by its thumbprint.

    ConfigError for a file that cannot be read or is neither.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path} cannot be read ({type(error).__name__})"]) from None
    if text.lstrip().startswith(b"{"):
        try:
            return dict(jsontext.loads(text))
        except ValueError as error:
            raise ConfigError([f"{path} is no key set: {error}"]) from None
    public = keys.load_private_key(text).public_key()
    return dict(keys.jwks([(keys.thumbprint(public), public)]))


def demo_server(
    key: Path,
    *,
    port: int = PORT,
    changes_per_second: float = CHANGES_PER_SECOND,
    seed: int = 1,
    practices: Sequence[PracticeSpec] = DEMO_PRACTICES,
) -> SimulatorServer:
    """A server of the demo's practices that knows the app by ``key`` (PEM private key or JWKS; made if it is not there).

    ConfigError if the key is no key or the port is taken.
    """
    if not key.exists():
        keys.new_key(key)
    world = World(practices, seed=seed)
    try:
        world.register(public_keys(key))
        return SimulatorServer(world, port=port, changes_per_second=changes_per_second)
    except ValueError as error:
        raise ConfigError([f"{key}: {error}"]) from None
    except OSError as error:
        raise ConfigError([f"port {port} cannot be used ({type(error).__name__}); name another with --port"]) from None


def run_simulator(
    key: Path,
    *,
    port: int = PORT,
    changes_per_second: float = CHANGES_PER_SECOND,
    seed: int = 1,
    practices: Sequence[PracticeSpec] = DEMO_PRACTICES,
    truth: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; then write the truth to ``truth``, if named, for judging. Raises as :func:`demo_server`."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with demo_server(key, port=port, changes_per_second=changes_per_second, seed=seed, practices=practices) as server:
        for spec in practices:
            url = server.base_url(spec.code)
            log.info("simulated practice", action="simulator.serve", practice=spec.code, mode=spec.mode, at=url)
        stop.wait()
        if truth is not None:
            truth.write_bytes(jsontext.dumps(server.world.export()))
    log.info("simulator stopped", action="simulator.stop")
