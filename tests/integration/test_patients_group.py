"""A Group's members, from servers by script and from the simulator: by every way that servers serve, and never more certain than proven."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from poller import keys
from poller.clock import SystemClock
from poller.config.feed import FeedConfig
from poller.config.model import PracticeConfig
from poller.config.secret import Secret
from poller.core.model import FailureKind, Purpose
from poller.simulator.server import SimulatorServer
from poller.simulator.spec import PracticeSpec
from poller.simulator.world import World
from poller.source.connection import open_source
from poller.source.group import GroupRoll, Membership
from tests.source_bench import BASE, Freely, Server, broken, ok, refusal

Answers = Mapping[str, Callable[[], httpx.Response]]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.core.faults.backoff", lambda _retry, _jitter: 0.0)


def group(*members: str | dict[str, Any], name: str = "g1", **more: Any) -> dict[str, Any]:
    shown = [{"entity": {"reference": m}} if isinstance(m, str) else m for m in members]
    return {
        "resourceType": "Group",
        "id": name,
        "identifier": [{"system": "urn:r", "value": "ALL"}],
        "member": shown,
    } | more


def bundle(*groups: Any, following: str | None = None) -> dict[str, Any]:
    link = [{"relation": "next", "url": following}] if following else []
    return {"resourceType": "Bundle", "type": "searchset", "link": link, "entry": [{"resource": one} for one in groups]}


def server_of(**answers: Any) -> Server:
    """Answers by path; a dictionary is a body, a number is a refusal with that status."""

    def script(where: str, _request: httpx.Request) -> httpx.Response:
        answer = answers.get(where, 404)
        return refusal(answer) if isinstance(answer, int) else broken() if answer is None else ok(answer)

    return Server(script)


def read(server: Server, name: str = "g1", times: int = 1) -> Membership:
    async def main() -> Membership:
        async with server.source() as source:
            roll = GroupRoll(source.client, BASE, name)
            for _ in range(times - 1):
                await roll.read(Purpose.RECONCILE)
            return await roll.read(Purpose.RECONCILE)

    return asyncio.run(main())


WHOLE = group("Patient/a", "https://h/x/Patient/b/_history/2", "Patient/a", quantity=2)


def test_a_group_is_read_by_its_id() -> None:
    server = server_of(**{"Group/g1": WHOLE})
    assert read(server) == Membership(("a", "b"))
    assert server.asked == ["Group/g1"]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500, 501])
def test_where_reads_are_not_served_an_identifier_will_do(status: int) -> None:
    server = server_of(**{"Group/ALL": status, "Group?identifier=ALL": bundle(group(name="x", identifier=[]), WHOLE)})
    assert read(server, "ALL").patients == ("a", "b")


@pytest.mark.parametrize("name", ["g1", "ALL", "urn:r|ALL"])
def test_where_only_lists_are_served_the_group_is_looked_for_by_id_and_identifier(name: str) -> None:
    pages = {
        "Group": bundle(
            group("Patient/z", name="g0", identifier=[]), following="http://in/fhir/r4/FAMLYMED/Group?page=2"
        ),
        "Group?page=2": bundle(WHOLE),
        f"Group?identifier={name}": 400,
    }
    server = server_of(**pages)
    assert read(server, name, times=2) == Membership(("a", "b"))
    assert server.asked[-2:] == ["Group", "Group?page=2"], "what worked is asked first the next time"
    assert len(server.asked) <= 6


def test_members_spread_over_pages_are_added_up() -> None:
    first, second = group("Patient/a", quantity=3), group("Patient/b", "Patient/c", quantity=3)
    server = server_of(
        **{
            "Group/g1": bundle(first, following=f"{BASE}/Group?page=2"),
            "Group?page=2": bundle(second, group("Patient/z", name="g2")),
        }
    )
    assert read(server) == Membership(("a", "b", "c"))


def test_a_list_that_leaves_members_out_is_followed_by_a_read() -> None:
    cut = group(name="g7", meta={"tag": [{"code": "SUBSETTED"}]})
    server = server_of(**{"Group": bundle(cut), "Group/g7": group("Patient/a", name="g7")})
    assert read(server, "ALL") == Membership(("a",))


def test_what_is_no_patient_of_today_is_left_out() -> None:
    gone = {"entity": {"reference": "Patient/gone"}, "inactive": True}
    server = server_of(**{"Group/g1": group("Patient/a", "Practitioner/p", gone, quantity=3)})
    assert read(server) == Membership(("a",))


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        (group("Patient/a", quantity=7), "the Group says that it has 7 members and shows 1"),
        (
            group("Patient/a", {"entity": {"identifier": {"value": "x"}}}),
            "1 of 2 members are no references to a resource",
        ),
        (
            group("Patient/a", {}, {"entity": "?"}, {"entity": {"reference": "#p"}}),
            "3 of 4 members are no references to a resource",
        ),
        (group(), "the Group shows no patients"),
        (group(member="?"), "1 of 1 members are no references to a resource"),
    ],
)
def test_what_speaks_against_all_members_is_said(said: Any, trouble: str) -> None:
    found = read(server_of(**{"Group/g1": said}))
    assert (found.trouble, found.is_whole) == (trouble, False)
    assert set(found.patients) <= {"a"}


def test_a_page_that_fails_leaves_what_was_read_and_says_so() -> None:
    server = server_of(
        **{"Group/g1": bundle(group("Patient/a"), following=f"{BASE}/Group?page=2"), "Group?page=2": None}
    )
    found = read(server)
    assert found.patients == ("a",)
    assert found.failure is not None
    assert found.failure.kind is FailureKind.TRANSPORT
    assert not found.is_whole


@pytest.mark.parametrize(
    "following",
    ["http://in/fhir/r4/OTHERS/Group?page=2", "http://in/fhir/r4/FAMLYMED/Patient?page=2", f"{BASE}/Group?page=1"],
)
def test_links_that_lead_astray_or_in_a_circle_end_it(following: str) -> None:
    page = bundle(WHOLE, following=following)
    found = read(server_of(**{"Group/g1": page, "Group?page=1": page}))
    assert found.patients == ("a", "b")
    assert found.failure is not None
    assert found.failure.kind is FailureKind.MALFORMED


def test_a_group_that_is_nowhere_is_told() -> None:
    found = read(server_of(Group=bundle(group("Patient/z", name="g0", identifier=[]))))
    assert found.failure is not None
    assert found.failure.detail == "no Group has this id, or an identifier of this value"


def test_a_server_that_does_not_answer_is_asked_no_other_way() -> None:
    server = server_of(**{"Group/g1": None, "Group": bundle(WHOLE)})
    assert read(server).failure is not None
    assert set(server.asked) == {"Group/g1"}


def test_a_missing_scope_is_told() -> None:
    found = read(server_of(**{"Group/g1": 403, "Group?identifier=g1": 403, "Group": 403}))
    assert found.failure is not None
    assert found.failure.detail == "forbidden; are the scope and the app enabled"


@pytest.mark.parametrize(
    "body",
    [
        [],
        "x",
        {"resourceType": "Patient", "id": "g1"},
        {"resourceType": "Bundle", "entry": 7},
        bundle({"resourceType": "Group"}, 3),
    ],
)
def test_any_other_body_gives_nobody(body: Any) -> None:
    found = read(server_of(**{"Group/g1": body}))
    assert (found.patients, found.is_whole) == ((), False)


def test_a_large_group_is_read_whole() -> None:
    many = [f"Patient/{n:044d}" for n in range(50_000)]
    assert len(read(server_of(**{"Group/g1": group(*many, quantity=50_000)})).patients) == 50_000


@pytest.mark.parametrize("mode", ["ecw", "open"])
def test_the_simulators_group_is_read_by_id_and_by_identifier(tmp_path: Path, mode: Literal["ecw", "open"]) -> None:
    """Served by lists alone as eClinicalWorks does, and by reads."""
    pair = keys.new_key(tmp_path / "key.pem")
    world = World([PracticeSpec("GROUPS", mode, patients=5, limit=1_000_000, bulk=True)])
    world.register(keys.jwks([(pair.kid, pair.private_key.public_key())]))
    [name] = world.written("GROUPS", "Group")

    async def main(server: SimulatorServer) -> list[Membership]:
        config = PracticeConfig.model_validate(
            {
                "code": "GROUPS",
                "base_url": server.base_url("GROUPS"),
                "token_url": server.token_url,
                "client_id": "poller-groups",
                "key": Secret(file=pair.private_path, env=None),
                "scopes": ("system/Patient.read", "system/Group.read"),
                "feeds": {"Patient": FeedConfig.model_validate({})},
            }
        )
        async with open_source(config, Freely(), SystemClock()) as source:
            rolls = [GroupRoll(source.client, config.base_url, group) for group in (name, "GROUPS-ALL", "nobody")]
            return [await roll.read(Purpose.DETECT) for roll in rolls]

    with SimulatorServer(world) as server:
        by_id, by_identifier, nobody = asyncio.run(main(server))
    assert by_id.is_whole
    assert sorted(by_id.patients) == sorted(world.written("GROUPS", "Patient"))
    assert by_identifier == by_id
    assert nobody.failure is not None
