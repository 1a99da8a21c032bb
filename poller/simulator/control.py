"""Control over a simulator from another process, for tests and the judge. Loopback only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from poller.core import jsontext

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Awaitable

    from starlette.requests import Request

    from poller.simulator.world import World

_LOOPBACK = {"127.0.0.1", "::1"}


Clock = Callable[[], "dt.datetime"]
Order = dict[str, Any]
Act = Callable[["World", Order, Clock], None]


def _faults(world: World, order: Order, _: Clock) -> None:
    code = order.pop("practice", None)
    if code is not None and code not in world.practices:
        raise ValueError("no such practice")
    if order.pop("clear", False):
        world.clear_faults(code)
    world.set_faults(code, **order)


def _manners(world: World, order: Order, _: Clock) -> None:
    code = order.pop("practice", None)
    if code not in world.practices:
        raise ValueError("no such practice")
    world.set_manners(code, **order)


def _begin(world: World, order: Order, clock: Clock) -> None:
    world.begin(clock(), float(order.get("changes_per_second", 1.0)))


def _quiet(world: World, _: Order, __: Clock) -> None:
    world.quiet()


def _revoke(world: World, _: Order, __: Clock) -> None:
    world.revoke_tokens()


def _register(world: World, order: Order, _: Clock) -> None:
    world.register(order)


def _mutate(world: World, order: Order, clock: Clock) -> None:
    try:
        if "merge" in order:
            old, new = order["merge"]
            world.merge(order["practice"], old, new, clock(), vanish=bool(order.get("vanish", False)))
        elif "remove_patient" in order:
            world.remove_patient(order["practice"], order["remove_patient"], clock())
        elif "delete" in order:
            kind, _, name = str(order["delete"]).partition("/")
            world.delete(order["practice"], kind, name, clock())
        else:
            world.put(order["practice"], order["put"], clock())
    except KeyError:
        raise ValueError("nothing of that name") from None


_ORDERS: dict[str, Act] = {
    "/_faults": _faults,
    "/_manners": _manners,
    "/_begin": _begin,
    "/_quiet": _quiet,
    "/_revoke": _revoke,
    "/_register": _register,
    "/_mutate": _mutate,
}


def control_routes(world: World, clock: Clock) -> list[Route]:
    """Routes that read the truth and steer the world.

    ``GET /_truth``; ``POST /_faults`` {"practice"?: CODE, switch: value …, "clear"?: true}; ``POST /_begin`` {"changes_per_second"};
    ``POST /_manners`` {"practice": CODE, manner: value …}; ``POST /_quiet``; ``POST /_revoke``; ``POST /_register`` a JWKS;
    ``POST /_mutate`` {"practice", "put": resource}, {"practice", "delete": "Type/id"}, {"practice", "merge": [old, new], "vanish"?: true}
    or {"practice", "remove_patient": id}. What is wrong is answered 400 with {"error"}.
    """

    async def truth(_: Request) -> Response:
        return Response(jsontext.dumps(world.export()), media_type="application/json")

    def obey(act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def obeyed(request: Request) -> Response:
            act(world, await _body(request), clock)
            return JSONResponse({"ok": True})

        return obeyed

    orders = [Route(path, _local(obey(act)), methods=["POST"]) for path, act in _ORDERS.items()]
    return [Route("/_truth", _local(truth), methods=["GET"]), *orders]


def _local(act: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        if request.client is None or request.client.host not in _LOOPBACK:
            return JSONResponse({"error": "loopback only"}, 403)
        try:
            return await act(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    return guarded


async def _body(request: Request) -> dict[str, Any]:
    body = jsontext.loads(await request.body() or b"{}")
    if not isinstance(body, dict):
        raise ValueError("a JSON object is expected")  # noqa: TRY004 - answered as any wrong value is
    return body
