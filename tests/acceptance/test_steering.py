"""What operators ask of a running poller, by the commands that they type: reload, pause, read now, a start without a good file.

The poller is a process of its own; the commands run in the test's process, since a start of Python each would cost more than what they do.
One poller serves most tests; what it published is judged at the end: nothing of all this may have lost or repeated an event.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from poller import cli, logs
from poller.errors import PollerError
from poller.simulator.judge import Rules, judge
from tests.acceptance.parts import Collector, Poller, Services, action_of, state_of, wait_until
from tests.acceptance.rig import ECW, OPEN, Rig, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str


class Operator:
    """A person at a terminal, with a file open in an editor."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.settings: dict[str, Any] = json.loads(json.dumps(rig.settings()))
        self.changes: list[tuple[dt.datetime, dt.datetime]] = []
        """From and until when practices may have ended and begun anew: what was under way is read again, and may be another then."""

    def practice(self, code: str) -> dict[str, Any]:
        found: dict[str, Any] = self.settings["practices"][code]
        return found

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """What is wanted of the practices changes meanwhile."""
        began = self._rig.server.clock()
        yield
        self.changes.append((began, self._rig.server.clock()))

    def types(self, *words: str) -> Said:
        """Run a command, as ``poller.cli.main`` does."""
        if words[0] in {"reload", "pause", "resume"}:
            with self.changing():
                return self._run(*words)
        return self._run(*words)

    def _run(self, *words: str) -> Said:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs, "configure", lambda *_: None)  # the test's own logs stay as they are
            result = CliRunner().invoke(cli.app, [*words, "--config", str(self._rig.path)], env={"COLUMNS": "160"})
        if isinstance(result.exception, PollerError):
            return Said(result.exception.exit_code, result.stdout, str(result.exception))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    def saves(self, text: str | None = None) -> None:
        """Write the file."""
        self._rig.path.write_text(text or json.dumps(self.settings, indent=1), encoding="utf-8")

    def reloads(self) -> Said:
        """Save, and have it taken up."""
        self.saves()
        return self.types("reload")


@dataclass
class Steered:
    """A poller at work, its world, and who steers it."""

    rig: Rig
    poller: Poller
    consumer: Collector
    operator: Operator
    port: int

    def calls(self, code: str) -> int:
        return len(self.rig.world.calls(code))

    def patient(self, code: str) -> str:
        return min(self.rig.world.written(code, "Patient"))

    def actions(self) -> list[str]:
        return [str(line.get("action")) for line in self.poller.said()]

    def calls_for(self, code: str, feed: str) -> int:
        """Calls to one type: its searches and its reads by id."""
        return sum(feed in call.path.split("/") for call in self.rig.world.calls(code))

    def events(self, code: str, names: list[str]) -> list[tuple[str, str]]:
        """What arrived of resources with these ids, in order: action and id."""
        told = [(action_of(event), str(event["subject"]).partition("/")[2]) for event in self.consumer.of(code)]
        return [one for one in told if one[1] in names]

    def metric(self, name: str, **labels: str) -> float | None:
        return metric(self.port, name, **labels)


def metric(port: int, name: str, **labels: str) -> float | None:
    """What a metric shows; None for nothing."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    found = [one for family in families for one in family.samples if one.name == name]
    return next((one.value for one in found if one.labels.items() >= labels.items()), None)


@pytest.fixture(scope="module")
def at_work(new_services: Callable[[], Services], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steered]:
    every = {"every": "2s", "sweep_every": "4s"}
    home = tmp_path_factory.mktemp("steered")
    rig = Rig(home, new_services(), [spec(ECW), spec(OPEN)], rate=1.0, seed=7, every=every)
    with rig, rig.collector() as consumer:
        poller = rig.poller()
        port = poller.wait_started(90)
        wait_until("both have baselines", rig.has_baselines, 120)
        yield Steered(rig, poller, consumer, Operator(rig), port)


def condition(steered: Steered, code: str, name: str, value: int) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": name,
        "code": {"text": f"value {value}"},
        "subject": {"reference": f"Patient/{steered.patient(code)}"},
    }


def test_a_reload_says_what_differs_and_only_that_begins_anew(at_work: Steered) -> None:
    at_work.operator.practice(OPEN)["budget"]["max_in_flight"] = 5
    begun = at_work.actions().count("feed.recall")
    said = at_work.operator.reloads()
    assert said.code == 0, said
    assert f"practice {OPEN}: budget.max_in_flight: 6 → 5" in said.out
    assert ECW not in said.out
    wait_until("it is read again", lambda: at_work.actions().count("feed.recall") == begun + 4, 120)
    again = [line for line in at_work.poller.said() if line.get("action") == "feed.recall"][-4:]
    assert {line["practice"] for line in again} == {OPEN}
    assert "nothing has changed" in at_work.operator.types("reload").out


@pytest.mark.parametrize("broken", ["a key and a value", "no YAML at all", "gone", "what needs a restart"])
def test_a_refused_reload_changes_nothing_and_tells_every_reason(at_work: Steered, broken: str) -> None:
    wrong = json.loads(json.dumps(at_work.operator.settings))
    wrong["practices"].pop(OPEN)  # which must not be taken up without the rest
    expected = [": "]
    if broken == "a key and a value":
        wrong["practices"][ECW]["feeds"]["Condition"] = {"evry": "1s"}
        wrong["logging"]["level"] = "loud"
        expected = ["did you mean every?", "did you mean"]
    elif broken == "what needs a restart":
        wrong["http"]["listen"] = "127.0.0.1:9"
        expected = ["http.listen: 127.0.0.1:0 → 127.0.0.1:9 can only be changed by a restart"]
    at_work.operator.saves("practices: [" if broken == "no YAML at all" else json.dumps(wrong, indent=1))
    if broken == "gone":
        at_work.rig.path.unlink()
    said = at_work.operator.types("reload", "--data-dir", str(at_work.rig.home))
    assert said.code == 2, said
    assert all(one in said.err for one in expected), said
    assert all(line.startswith(f"{at_work.rig.path}:") for line in said.err.splitlines())
    assert "refused; the configuration before stays in force" in said.out
    if broken == "a key and a value":
        assert len(said.err.splitlines()) == 2
    if broken == "what needs a restart":
        line = int(said.err.removeprefix(f"{at_work.rig.path}:").partition(":")[0])
        assert '"listen"' in at_work.rig.path.read_text().splitlines()[line - 1]
    if broken == "what needs a restart":
        before = at_work.calls(OPEN)
        wait_until("the practice is still read", lambda: at_work.calls(OPEN) > before + 5, 120)
        assert at_work.operator.reloads().code == 0


def test_a_paused_practice_makes_no_call_at_all_and_the_others_go_on(at_work: Steered) -> None:
    said = at_work.operator.types("pause", OPEN, "--reason", "their server is moved", "--actor", "ann")
    assert (said.code, "1 running engine heeds it" in said.out) == (0, True), said
    before, others = at_work.calls(OPEN), at_work.calls(ECW)
    assert at_work.operator.types("probe", OPEN).code == 3
    asked = at_work.operator.types("read-now", OPEN, "--patient", at_work.patient(OPEN))
    assert (asked.code, "paused" in asked.err) == (3, True)
    at_work.operator.practice(OPEN)["timeout"] = "6s"
    assert at_work.operator.reloads().code == 0, "what changes of a paused practice is taken up, and calls nobody"
    wait_until("the other practice is read", lambda: at_work.calls(ECW) > others + 20, 120)
    assert at_work.calls(OPEN) == before
    listed = json.loads(at_work.operator.types("pauses", "--json").out)["pauses"]
    assert [(one["practice"], one["feed"], one["actor"], one["reason"]) for one in listed] == [
        (OPEN, "*", "ann", "their server is moved")
    ]
    assert at_work.metric("poller_paused_by_operator", practice=OPEN, feed="*") == 1
    looked = at_work.metric("poller_last_look_timestamp", practice=OPEN) or 0.0
    wait_until(
        "a paused practice is looked after all the same",
        lambda: (at_work.metric("poller_last_look_timestamp", practice=OPEN) or 0.0) > looked,
        120,
    )

    def standing() -> Any:
        (practice,) = json.loads(at_work.operator.types("status", OPEN, "--json").out)["practices"]
        return practice

    wait_until("the store was told, too", lambda: standing()["state"] == "paused", 60)
    assert {feed["state"] for feed in standing()["feeds"]} == {"paused"}
    assert standing()["lookedBy"].endswith(f":{at_work.poller.process.pid}")
    assert at_work.operator.types("resume", OPEN).code == 0
    wait_until("it is read again", lambda: at_work.calls(OPEN) > before, 120)
    assert at_work.operator.types("resume", OPEN).code == 6
    assert at_work.metric("poller_paused_by_operator", practice=OPEN, feed="*") == 0


def test_a_paused_feed_is_left_alone_until_its_time_is_over(at_work: Steered) -> None:
    assert at_work.operator.types("pause", OPEN, "Condition", "--for", "4s", "--reason", "r").code == 0
    before, others = at_work.calls_for(OPEN, "Condition"), at_work.calls_for(OPEN, "Encounter")
    wait_until("another feed is read", lambda: at_work.calls_for(OPEN, "Encounter") > others, 120)
    assert at_work.calls_for(OPEN, "Condition") == before
    assert at_work.metric("poller_feed_late", practice=OPEN, feed="Condition") == 0
    wait_until("the feed is read again", lambda: at_work.calls_for(OPEN, "Condition") > before, 120)
    assert json.loads(at_work.operator.types("pauses", "--json").out) == {"pauses": []}


def test_a_feed_taken_out_and_put_back_gives_exactly_what_changed_meanwhile(at_work: Steered) -> None:
    """Read patient by patient, and practice-wide by windows and sweeps: both at once, since each reload costs."""
    now, world, codes = at_work.rig.server.clock, at_work.rig.world, (ECW, OPEN)
    names = {code: [f"{name}-{code}" for name in ("stays", "changes", "goes", "comes")] for code in codes}
    for code in codes:
        for name in names[code][:3]:
            world.put(code, condition(at_work, code, name, 1), now())
    wait_until("they are known", lambda: all(len(at_work.events(code, names[code])) == 3 for code in codes), 120)
    taken_out = {code: at_work.operator.practice(code)["feeds"].pop("Condition") for code in codes}
    said = at_work.operator.reloads()
    assert said.out.count("feed Condition is retired; nothing of it is deleted") == 2, said
    for code in codes:
        world.put(code, condition(at_work, code, f"changes-{code}", 2), now())
        world.delete(code, "Condition", f"goes-{code}", now())
        world.put(code, condition(at_work, code, f"comes-{code}", 1), now())
    before = {code: at_work.calls_for(code, "Condition") for code in codes}
    others = {code: at_work.calls_for(code, "Observation") for code in codes}
    wait_until(
        "the others are read", lambda: all(at_work.calls_for(c, "Observation") > others[c] + 8 for c in codes), 120
    )
    assert {code: at_work.calls_for(code, "Condition") for code in codes} == before
    retired = json.loads(at_work.operator.types("coverage", ECW, "--json").out)["retired"]
    assert [one["feed"] for one in retired] == ["Condition"]
    assert at_work.metric("poller_feed_late", practice=ECW, feed="Condition") is None
    for code in codes:
        at_work.operator.practice(code)["feeds"]["Condition"] = taken_out[code]
    assert at_work.operator.reloads().out.count("feed Condition begins, or comes back and catches up") == 2
    wait_until("they are caught up", lambda: all(len(at_work.events(code, names[code])) == 6 for code in codes), 120)
    for code in codes:
        assert sorted(at_work.events(code, names[code])[3:]) == sorted(
            [("updated", f"changes-{code}"), ("deleted", f"goes-{code}"), ("created", f"comes-{code}")]
        )
        assert "baseline" not in {one["origin"] for one in at_work.consumer.of(code) if "comes" in one["subject"]}


def test_a_reconcile_reads_all_and_tells_what_windows_do_not_show(at_work: Steered) -> None:
    calls = at_work.calls_for(ECW, "Condition")
    whole = json.loads(at_work.operator.types("reconcile", ECW, "Condition", "--json").out)
    patients = len(at_work.rig.world.written(ECW, "Patient"))
    assert (whole["read"], whole["whole"], whole["failed"]) == (whole["total"], whole["total"], []), whole
    assert whole["total"] >= patients // 2, "patient by patient"
    assert at_work.calls_for(ECW, "Condition") >= calls + whole["total"]
    said = at_work.operator.types("reconcile", OPEN)
    assert (said.code, "4 of 4 searches read whole" in said.out) == (0, True), said


def test_a_patient_is_read_now_and_one_whom_nobody_knows_is_looked_for(at_work: Steered) -> None:
    known = at_work.operator.types("read-now", ECW, "--patient", at_work.patient(ECW))
    assert known.code == 0, known
    assert "4/4 " in known.out
    assert "4 of 4 searches read whole" in known.out
    nobody = at_work.operator.types("read-now", ECW, "--patient", "nobody-of-this-name")
    assert (nobody.code, "the source shows no patient with this id" in nobody.err) == (6, True)
    hidden = {
        "resourceType": "Patient",
        "id": "hidden-one",
        "name": [{"family": "Zzz"}],
    }  # no search by name shows them
    at_work.rig.world.put(ECW, hidden, at_work.rig.server.clock())
    found = json.loads(at_work.operator.types("read-now", ECW, "--patient", "hidden-one", "--json").out)
    assert (found["new"], found["total"], len(found["passes"])) == (True, 5, 5), (
        "and the Patient resource by its id, since no search shows it"
    )
    wait_until(
        "the patient is published", lambda: at_work.events(ECW, ["hidden-one"]) == [("created", "hidden-one")], 120
    )
    log = at_work.poller.log.read_text()
    assert "hidden-one" not in log
    assert "nobody-of-this-name" not in log


def test_a_practice_and_a_sink_end_and_come_back(at_work: Steered) -> None:
    more = {"exchange": f"{at_work.rig.mark}.x.more", "baseline": "publish", "queues": [f"{at_work.rig.mark}.more"]}
    practice = at_work.operator.settings["practices"].pop(OPEN)
    at_work.operator.settings["sinks"]["more"] = more
    said = at_work.operator.reloads()
    assert said.code == 0, said
    assert f"practice {OPEN} ends" in said.out
    assert "sink more begins" in said.out
    before, others = at_work.calls(OPEN), at_work.calls(ECW)
    with at_work.rig.collector(f"{at_work.rig.mark}.more") as consumer:
        wait_until("the new sink gets events", lambda: consumer.received, 120)
        wait_until("the other practice is read", lambda: at_work.calls(ECW) > others + 8, 120)
        assert at_work.calls(OPEN) == before
        at_work.operator.settings["practices"][OPEN] = practice
        assert f"practice {OPEN} begins" in at_work.operator.reloads().out
        wait_until("it is read again", lambda: at_work.calls(OPEN) > before, 120)
        del at_work.operator.settings["sinks"]["more"]
        assert "sink more ends; its cursors stay" in at_work.operator.reloads().out


def test_a_signal_and_a_changed_file_do_the_same(at_work: Steered) -> None:
    revision = at_work.metric("poller_config_revision") or 0
    at_work.operator.settings["reload"] = {"watch": True}
    at_work.operator.saves()
    at_work.poller.process.send_signal(signal.SIGHUP)
    wait_until("it is taken up", lambda: at_work.metric("poller_config_revision") == revision + 1, 120)
    at_work.operator.settings["reload"] = {"watch": False}
    at_work.operator.saves()
    wait_until("it is taken up", lambda: at_work.metric("poller_config_revision") == revision + 2, 120)
    kept = json.loads(at_work.operator.types("config", "history", "--json").out)["revisions"]
    assert [one["reason"] for one in kept[:2]] == ["the file has changed", "SIGHUP"]


def test_after_all_that_nothing_is_lost_and_nothing_told_twice(at_work: Steered) -> None:
    at_work.rig.world.quiet()
    at_work.rig.come_round(lambda: len(at_work.consumer.received), 60)
    truth = {code: at_work.rig.truth(code) for code in (ECW, OPEN)}
    assert {code: state_of(at_work.consumer.of(code)) for code in (ECW, OPEN)} == truth
    ids = [event["id"] for event in at_work.consumer.events]
    assert len(set(ids)) == len(ids)
    rules = Rules(by_schedule=False, outages=tuple(at_work.operator.changes), allow_duplicates=False)
    verdict = judge(at_work.rig.world.evidence(), at_work.consumer.received, at_work.rig.schedules(), rules)
    assert verdict["ok"], verdict


def test_a_broken_file_starts_nothing_but_the_last_good_one_does(at_work: Steered) -> None:
    """Last: the poller ends here. What an operator had paused is still paused when it is back."""
    at_work.rig.world.begin(at_work.rig.server.clock(), 1.0)
    assert at_work.operator.types("pause", OPEN, "--reason", "over a restart").code == 0
    assert at_work.poller.stop() == 0
    assert "no engine runs" in at_work.operator.types("reload").err
    assert at_work.operator.types("reload").code == 3
    at_work.operator.saves("practices: {" + json.dumps(at_work.operator.settings)[1:400])
    assert at_work.operator.types("run").code == 2
    before, paused = at_work.calls(ECW), at_work.calls(OPEN)
    again = at_work.rig.poller(name="again", options=("--last-good", "--data-dir", str(at_work.rig.home)))
    port = again.wait_started(90)
    wait_until("it polls", lambda: at_work.calls(ECW) > before + 8, 120)
    assert at_work.calls(OPEN) == paused
    (line,) = [line for line in again.said() if line.get("action") == "config.last-good"]
    assert (line["level"], len(line["problems"])) == ("error", 1)
    assert metric(port, "poller_config_refused") == 1
    said = at_work.operator.types("reload", "--data-dir", str(at_work.rig.home))
    assert said.code == 2, said
    at_work.operator.saves()
    assert at_work.operator.types("reload").code == 0
    assert metric(port, "poller_config_refused") == 0
    assert again.stop() == 0
