"""What the documents say is so: keys, defaults, names, samples, metrics, links, and the files of deploy/."""

from __future__ import annotations

import datetime as dt
import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import types
import typing
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event
from prometheus_client import REGISTRY
from pydantic import BaseModel
from typer.main import get_command

import poller
from poller import cli, keys, metrics
from poller.commands import schema
from poller.config import PracticeConfig, load, problems
from poller.config.model import Config
from poller.config.section import Section
from poller.config.values import DEFAULT_CATEGORIES, show_duration
from poller.core import jsontext
from poller.core.envelope import CONTENT_TYPE, envelope
from poller.core.model import Action, Event, Origin

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text("utf-8")
ARCHITECTURE = (TOP / "ARCHITECTURE.md").read_text("utf-8")
PLACES = {("sinks",): "NAME", ("practices",): "CODE", ("practices", "CODE", "feeds"): "TYPE"}


def keys_of(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Every key that a configuration can have, e.g. ``sinks.NAME.payload``, with the model and field it is."""
    for name, known in model.model_fields.items():
        if model is PracticeConfig and name == "code":
            continue  # the key under which the practice stands
        path = (*at, name)
        below = next((part for part in parts_of(known.annotation) if issubclass(part, Section)), None)
        if below is None:
            yield ".".join(path), model, name
        else:
            yield from keys_of(below, (*path, PLACES[path]) if path in PLACES else path)


def parts_of(annotation: Any) -> Iterator[type]:
    """The classes in an annotation."""
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_args(annotation):
        for part in typing.get_args(annotation):
            yield from parts_of(part)
    elif isinstance(annotation, type):
        yield annotation


def table_of_keys() -> dict[str, str]:
    """Key → default, as the README has them."""
    return dict(re.findall(r"^\| `([a-zA-Z_.]+)` \| ?(.*?) \| .+ \|$", README, re.MULTILINE))


def shown_default(key: str, value: Any) -> str:
    """A default as the README writes it."""
    said = {
        "practices.CODE.client_id": "required",
        "practices.CODE.key": "required",
        "practices.CODE.scopes": "one per feed",
        "practices.CODE.patients.names": "`a` to `z`",
        "practices.CODE.feeds.TYPE.categories": "",
        "practices.CODE.feeds.TYPE.weight": "by type",
        "practices.CODE.feeds.TYPE.max_staleness": "24h or 72h",
    }
    if key in said or value is None:
        return said.get(key, "")
    if value == ():
        return "all" if ".only." in key else ""
    if value == {}:
        return ""
    if isinstance(value, tuple):
        value = f"[{', '.join(value)}]"
    if isinstance(value, dt.timedelta):
        value = show_duration(value)
    elif isinstance(value, Path):
        value = value.name
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


@pytest.fixture
def least() -> Config:
    """A configuration that says no more than it must."""
    practice = {
        "code": "CODE",
        "base_url": "https://ehr.example/CODE",
        "client_id": "app",
        "key": {"env": "KEY"},
        "feeds": {"Patient": {}},
    }
    sinks = {"NAME": {"exchange": "x", "queues": ("q",)}}
    return Config.model_validate({"sinks": sinks, "practices": {"CODE": practice}})


def test_the_readme_names_every_key_of_the_configuration_and_no_other() -> None:
    assert set(table_of_keys()) == {key for key, _, _ in keys_of(Config)}


def test_the_readme_s_defaults_are_the_code_s(least: Config) -> None:
    wrong = {}
    for key, model, name in keys_of(Config):
        value: Any = least
        for word in key.replace("feeds.TYPE", "feeds.Patient").split("."):
            value = value[word] if isinstance(value, dict) else getattr(value, word)
            if value is None and not key.endswith(f".{word}"):  # of a section that may be left out
                value = model.model_fields[name].get_default()
                break
        expected = "required" if model.model_fields[name].is_required() else shown_default(key, value)
        if table_of_keys()[key] != expected:
            wrong[key] = expected
    assert not wrong
    assert ", ".join(DEFAULT_CATEGORIES["Observation"]) in README
    assert least.practices["CODE"].patients.names == tuple("abcdefghijklmnopqrstuvwxyz")


def test_the_readme_s_sample_consumer_is_the_tested_one() -> None:
    (sample,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert sample == (TOP / "tests/acceptance/sample_consumer.py").read_text("utf-8")


def test_the_readme_s_event_is_one_that_the_code_writes_and_the_cloudevents_sdk_reads() -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    shown = jsontext.loads(text)
    event = Event(
        practice="DEMOOP",
        epoch=1,
        sequence=552,
        event_id=uuid.UUID(shown["id"]),
        resource_type="Observation",
        id="obs-347a28636c28ed43",
        version=2,
        action=Action.UPDATED,
        origin=Origin.LIVE,
        changed=("status", "valueQuantity"),
        categories=("vital-signs",),
        status="amended",
        partition_key="Patient/pat-8e81020e69f413db",
        detected_at=dt.datetime.fromisoformat(shown["time"]),
        previous_read=dt.datetime.fromisoformat(shown["previousread"]),
        last_modified=dt.datetime(2026, 11, 22, 18, 19, 47, 398_000, tzinfo=dt.UTC),
    )
    base_url = "http://127.0.0.1:8765/fhir/r4/DEMOOP"
    written = envelope(event, base_url=base_url, payload="id-only", previous_sequence="0000000001-00000000000000000551")
    assert shown == written
    assert list(shown) == list(written)
    read = from_rabbitmq_event(RabbitMQMessage({"content-type": CONTENT_TYPE}, CONTENT_TYPE, text.encode()))
    assert read.get_type() == "dev.ehrpoller.resource.updated.v1"
    assert read.get_data() == json.loads(text)["data"]


@pytest.mark.parametrize("name", schema.documents())
def test_the_committed_schemas_are_the_code_s(name: str) -> None:
    committed = (TOP / "poller/schemas" / name).read_text("utf-8")
    assert committed == schema.written(schema.documents()[name]), "run: poller schema all --out poller/schemas"
    assert len(list((TOP / "poller/schemas").iterdir())) == len(schema.documents())


def test_every_action_is_named_to_consumers() -> None:
    section = README.partition("\n## Consume\n")[2].partition("\n## ")[0]
    assert all(f"`{action.value}`" in section for action in Action)
    assert all(f"`{origin.value}`" in section for origin in Origin)


def test_every_metric_in_the_readme_exists() -> None:
    named = set(re.findall(r"`(poller_[a-z_]+)`", README)) - {
        "poller_engine",
        "poller_relay",
        "poller_reader",
        "poller_api",
        "poller_owner",
    }
    exported = {sample for metric in REGISTRY.collect() for sample in (metric.name, f"{metric.name}_total")}
    assert metrics.LATE is not None
    assert len(named) >= 5
    assert named <= exported


def test_every_command_in_the_documents_exists() -> None:
    known = set(commands(get_command(cli.app)))
    groups = {command[0] for command in known if len(command) > 1}
    for text in (README, *((TOP / name).read_text("utf-8") for name in ("CHANGELOG.md", "deploy/RUNBOOK.md"))):
        said = [words.split() for words in re.findall(r"(?:`|^ *|\$\()poller ([a-z][a-z -]*)", text, re.MULTILINE)]
        called = {tuple(words[: 2 if words[0] in groups else 1]) for words in said}
        assert len(called) >= 7
        assert called <= known


def commands(group: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of all commands, e.g. ``("keys", "new")``."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*at, name))
            if hasattr(command, "default"):
                yield (*at, name)
        else:
            yield (*at, name)


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"])
def test_every_link_within_leads_somewhere(name: str) -> None:
    text = (TOP / name).read_text("utf-8")
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (TOP / target).exists(), target


def test_every_name_in_the_architecture_exists() -> None:
    modules = {module.name for module in pkgutil.iter_modules(poller.__path__)}
    names = set(re.findall(r"`([A-Za-z_][A-Za-z0-9_./]*)`", ARCHITECTURE))
    dotted = {name for name in names if "." in name and "/" not in name}
    files = {name for name in names if "/" in name}
    assert len(dotted) > 40
    missing = [name for name in dotted if name.split(".")[0] not in modules or resolve(name) is None]
    missing += [name for name in files if not (TOP / "poller" / name).exists()]
    assert not missing
    first_column = re.search(r"\| where \| what \|\n(.*?)\n\n", ARCHITECTURE, re.DOTALL)
    assert first_column is not None
    mapped = {name for row in first_column[1].splitlines()[1:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert mapped == modules - {"__main__"}


def resolve(name: str) -> object | None:
    """What a dotted name below ``poller`` is; None if it is nothing."""
    words = name.split(".")
    for cut in range(len(words), 0, -1):
        try:
            found: object = importlib.import_module(".".join(["poller", *words[:cut]]))
        except ModuleNotFoundError:
            continue
        for word in words[cut:]:
            found = getattr(found, word, None)
        return found
    return None


def test_every_table_in_the_architecture_is_made_by_the_migrations() -> None:
    section = ARCHITECTURE.partition("\n## Tables\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    versions = TOP / "poller/store/migrations/versions"
    made = {
        name
        for file in versions.glob("*.sql")
        for name in re.findall(r"^CREATE TABLE poller\.(\w+) \(", file.read_text("utf-8"), re.MULTILINE)
    }
    dropped = {
        name
        for file in versions.glob("*.sql")
        for name in re.findall(r"^DROP TABLE poller\.(\w+);", file.read_text("utf-8"), re.MULTILINE)
    }
    assert named == made - dropped


def test_the_deployed_configuration_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (TOP / "deploy/poller.yaml").read_text("utf-8")
    for secret in ("store.password", "broker.password"):
        (tmp_path / secret).write_text("made-up", "utf-8")
        (tmp_path / secret).chmod(0o600)
    keys.new_key(tmp_path / "key.pem")
    (tmp_path / "poller.yaml").write_text(
        text.replace("/run/secrets/", f"{tmp_path}/").replace("/var/lib/poller", str(tmp_path)), "utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert problems(tmp_path / "poller.yaml") == []
    loaded = load(tmp_path / "poller.yaml")
    assert not loaded.is_embedded_store
    assert not loaded.is_embedded_broker


def test_compose_has_no_password_and_shares_one_loopback() -> None:
    compose = yaml.safe_load((TOP / "deploy/compose.yaml").read_text("utf-8"))
    services = compose["services"]
    for name in ("postgres", "rabbitmq", "poller"):
        assert services[name]["network_mode"] == "service:loopback"
        assert "ports" not in services[name]
        assert "healthcheck" in services[name]
    assert all(set(secret) == {"environment"} for secret in compose["secrets"].values())
    assert "${BROKER_PASSWORD:?" in compose["configs"]["rabbitmq_login"]["content"]
    targets = {f"/run/secrets/{secret['target']}" for secret in services["poller"]["secrets"]}
    deployed = yaml.safe_load((TOP / "deploy/poller.yaml").read_text("utf-8"))
    assert {deployed["store"]["password"]["file"], deployed["broker"]["password"]["file"]} == targets


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there to ask")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "poller.service"
    text = (TOP / "deploy/poller.service").read_text("utf-8")
    unit.write_text(text.replace("/opt/poller/bin/poller", "/bin/true"), "utf-8")
    asked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    assert "poller.service" not in asked.stderr
