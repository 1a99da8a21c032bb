"""``poller simulator`` as a process would run it, and the keys that it takes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from poller import keys
from poller.errors import ConfigError
from poller.simulator.command import DEMO_PRACTICES, demo_practices, demo_server, public_keys
from poller.simulator.truth import load_truth

SCRIPT = """
import sys
from pathlib import Path
import structlog
from poller.simulator.command import run_simulator
structlog.configure(processors=[structlog.processors.JSONRenderer()])
run_simulator(Path(sys.argv[1]), port=0, truth=Path(sys.argv[2]))
"""


def test_a_private_key_and_its_key_set_say_the_same(tmp_path: Path) -> None:
    pair = keys.new_key(tmp_path / "app.pem")
    assert public_keys(pair.private_path) == public_keys(pair.jwks_path)
    assert public_keys(pair.private_path)["keys"][0]["kid"] == pair.kid
    assert "d" not in public_keys(pair.private_path)["keys"][0]


@pytest.mark.parametrize("text", ["", "nonsense", "{", '{"keys": []}', "[]"])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "app.pem"
    path.write_text(text)
    with pytest.raises(ConfigError):
        demo_server(path, port=0)


def test_a_missing_key_is_made_and_a_taken_port_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "app.pem"
    with demo_server(path, port=0) as server:
        assert path.exists()
        port = int(server.root.rpartition(":")[2])
        for spec in DEMO_PRACTICES:
            assert httpx.get(server.base_url(spec.code) + "/metadata").status_code == 200
        with pytest.raises(ConfigError, match="--port"):
            demo_server(path, port=port)


def test_a_named_mode_changes_the_demos_practice_of_its_kind() -> None:
    assert demo_practices() == DEMO_PRACTICES
    ecw, opened = demo_practices("everything")
    assert (ecw.everything, opened) == ("on", DEMO_PRACTICES[1])
    assert demo_practices("unmoved")[0] == DEMO_PRACTICES[0]
    with pytest.raises(ConfigError, match="no such mode: every; there are ecw, open, patient-only"):
        demo_practices("every")


def test_it_serves_until_it_is_told_to_stop_and_leaves_the_truth(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    script = [sys.executable, "-c", SCRIPT, str(tmp_path / "app.pem"), str(truth)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in DEMO_PRACTICES]
        assert [line["practice"] for line in lines] == ["DEMOEC", "DEMOOP"]
        root = lines[0]["at"].partition("/fhir")[0]
        assert set(load_truth(httpx.get(root + "/_truth").content)) == {"DEMOEC", "DEMOOP"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert {found.mode for found in load_truth(truth.read_bytes()).values()} == {"ecw", "open"}
