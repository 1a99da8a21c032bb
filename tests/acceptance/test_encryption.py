"""The whole poller with encryption on: what it tells is true, keys change while it runs, and no table shows what a resource says."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from poller.errors import StoreError
from tests.acceptance.parts import ROOT, state_of, wait_until
from tests.acceptance.rig import ECW, OPEN, Rig, spec
from tests.markers import marked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.parts import Poller, Services

K1, K2 = ({"name": name, "file": name} for name in ("k1", "k2"))


def new_master(path: Path) -> None:
    path.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    path.chmod(0o600)


def poller(rig: Rig, *words: str, code: int = 0) -> str:
    """What a command says."""
    command = [sys.executable, "-m", "poller", *words, "--config", str(rig.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def write(rig: Rig, *keys: Any) -> None:
    more = {"encryption": {"keys": keys}, "api": {"listen": "127.0.0.1:0"}}
    rig.path.write_text(json.dumps(rig.settings() | more), encoding="utf-8")


def served(rig: Rig, running: Poller, path: str) -> str:
    """What the reading API answers."""
    token = poller(rig, "tokens", "new", "reader", "--every-practice").strip()
    (line,) = [one for one in running.said() if one.get("action") == "api.start"]
    answer = httpx.get(f"http://{line['http']}{path}", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert answer.status_code == 200
    return answer.text


def said_of_patients(rig: Rig) -> set[str]:
    """Words of patients' data that are in no id and no code."""
    said: set[str] = set()
    for code in (ECW, OPEN):
        for patient in rig.world.written(code, "Patient").values():
            said |= {name["family"] for name in patient["name"]}
            said.add(f'{patient["birthDate"]}"')
    return {word for word in said if len(word) > 3}


def test_all_is_told_and_nothing_is_shown_while_keys_change(
    tmp_path: Path, new_services: Callable[[], Services]
) -> None:
    with Rig(tmp_path / "home", new_services(), [spec(ECW), spec(OPEN)], rate=1.0) as rig, rig.collector() as consumer:
        new_master(rig.home / "k1")
        new_master(rig.home / "k2")
        write(rig, K1)
        running = rig.poller()
        running.wait_started()
        wait_until("all is read once", rig.has_baselines, 180)
        for code in (ECW, OPEN):
            assert "key 2 seals" in poller(rig, "keys", "rotate", code)
        write(rig, K2, K1)
        poller(rig, "reload")
        assert "4 keys wrapped anew" in poller(rig, "keys", "rewrap")
        write(rig, K2)
        poller(rig, "reload")
        rig.world.quiet()
        rig.come_round(lambda: len(consumer.received))
        listed = [json.loads(line) for line in poller(rig, "keys", "list", "--json").splitlines()]
        assert {(one["practice"], one["key"], one["master"]) for one in listed} == {
            (code, key, "k2") for code in (ECW, OPEN) for key in (1, 2)
        }
        for code in (ECW, OPEN):
            assert state_of(consumer.of(code)) == rig.truth(code)
        markers = said_of_patients(rig)
        assert len(markers) > 5
        shown = poller(rig, "as-of", OPEN, "--at", "2100-01-01", "--type", "Patient")
        assert any(marker in shown for marker in markers)
        one = json.loads(shown.splitlines()[0])
        assert json.loads(served(rig, running, f"/v1/{OPEN}/Patient/{one['id']}")) == one
        assert one["id"] in poller(rig, "history", OPEN, f"Patient/{one['id']}", "--json")
        replayed = rig.home / "events"
        poller(rig, "replay", OPEN, "--type", "Patient", "--file", str(replayed))
        assert any(marker in replayed.read_text() for marker in markers)
        write(rig, {"name": "k2", "file": "k1"})
        assert "what encryption.keys has by that name is another key" in poller(rig, "reload", code=2)
        write(rig, K2)
        with closing(psycopg.connect(rig.installation().store_conninfo)) as admin:
            assert marked(admin, markers) == set()
            used = admin.execute("SELECT DISTINCT get_byte(body, 1), codec FROM poller.history WHERE body IS NOT NULL")
            assert set(used.fetchall()) == {(1, 2), (2, 2)}
        assert running.stop() == 0
        log = running.log.read_text()
        assert not [marker for marker in markers if marker in log]
        assert (rig.home / "k2").read_text() not in log
        new_master(rig.home / "k2")
        refused = poller(rig, "run", code=StoreError.exit_code)
        assert f"practice {ECW}: its key 1 was wrapped by the master key k2, and what encryption.keys has" in refused
        write(rig)
        assert "encryption.keys names none" in poller(rig, "run", code=StoreError.exit_code)
