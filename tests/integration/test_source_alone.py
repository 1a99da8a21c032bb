"""What is wrong with one practice's credentials, address or network stops that practice and no other."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from poller import keys
from poller.simulator.alignment import content_of
from tests.acceptance.parts import store_url, wait_until, with_rabbit
from tests.acceptance.rig import OPEN, Rig, spec

BAD = ("BADCLIENT", "BADKEY", "BADURL", "BADHOST", "BADPORT")


class Neighbours(Rig):
    """One practice that can be read, and one for each way of being set up wrong."""

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        right = settings["practices"][OPEN]
        keys.new_key(self.home / "other.pem")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            closed = taken.getsockname()[1]
        root = right["base_url"].removesuffix(OPEN)
        wrong = {
            "BADCLIENT": {"base_url": f"{root}A", "client_id": "nobody"},
            "BADKEY": {"base_url": f"{root}B", "key": {"file": str(self.home / "other.pem")}},
            "BADURL": {"base_url": f"{root}NOSUCH"},
            "BADHOST": {"base_url": "https://nowhere.invalid/r4/C", "proxy": "none"},
            "BADPORT": {"base_url": f"http://127.0.0.1:{closed}/r4/D"},
        }
        settings["practices"] |= {code: right | wrong[code] for code in BAD}
        return settings


@pytest.mark.soak
def test_a_practice_that_is_set_up_wrong_stops_itself_only(tmp_path: Path, database_url: str, rabbit_url: str) -> None:
    services = with_rabbit(store_url(database_url), rabbit_url)
    with Neighbours(tmp_path, services, [spec(OPEN, patients=2)]) as rig, rig.engine():
        log = rig.installation().reading_log

        def told() -> dict[str, bytes | None]:
            events = log.after(OPEN, 0, 0, 1_000, bodies=True)
            while more := log.after(OPEN, events[-1].epoch, events[-1].sequence, 1_000, bodies=True) if events else ():
                events += more
            state = {f"{event.resource_type}/{event.id}": content_of(event.body) for event in events}
            return {reference: content for reference, content in state.items() if content is not None}

        wait_until("the one that is right is read", lambda: told() == rig.truth(OPEN), 40)
        assert [code for code in BAD if log.after(code, 0, 0, 1, bodies=False)] == []
