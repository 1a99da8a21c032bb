"""What a wrong configuration is told: everything at once, with file, line, what is wrong and what would be right; never a secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poller import config, keys
from poller.config.values import is_loopback
from poller.errors import ConfigError
from tests.authority import Authority

SECRET = "hunter2Hunter2"
RIGHT = """\
data_dir: state
store: {url: embedded}
broker: {url: embedded}
http: {listen: "127.0.0.1:9464"}
sinks:
  changes: {exchange: fhir.changes, queues: [fhir.changes.all]}
practices:
  AB:
    base_url: https://fhir.example.org/r4/AB
    client_id: poller
    key: {file: key.pem}
    feeds:
      Patient:
      Observation: {every: 5m}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a key in it."""
    directory = tmp_path_factory.mktemp("config")
    keys.new_key(directory / "key.pem")
    Authority(directory, "ours")
    return directory


def told(place: Path, text: str) -> list[str]:
    """The problems of ``text``, without the file's name."""
    file = place / "poller.yaml"
    file.write_text(text)
    problems = config.problems(file)
    assert all(re.match(re.escape(f"{file}:") + r"[0-9]+: ", problem) for problem in problems)
    assert not any(SECRET in problem for problem in problems)
    return [problem.removeprefix(f"{file}:") for problem in problems]


def test_the_right_one_is_right(place: Path) -> None:
    assert told(place, RIGHT) == []


def test_a_server_without_authorization_needs_no_client_and_no_key(place: Path) -> None:
    text = RIGHT.replace("    client_id: poller\n    key: {file: key.pem}\n", "    auth: none\n")
    assert told(place, text) == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("data_dir:", "data_dri:", "1: data_dri: unknown key data_dri; did you mean data_dir?"),
        ("    client_id: poller\n", "", "8: practices.AB: client_id is missing; add client_id:"),
        ("client_id: poller", "client_id: 5", "10: practices.AB.client_id: not text; put it in quotes"),
        ("client_id: poller", "code: AB\n    client_id: poller", "10: a practice's code is the key it stands under"),
        ("Patient:", "Patent:", "13: practices.AB.feeds.Patent: no such resource type: Patent; did you mean Patient?"),
        (
            "every: 5m",
            "every: 5",
            "14: practices.AB.feeds.Observation.every: not a duration; write a number and a unit",
        ),
        ("every: 5m", "every: 0s", "14: practices.AB.feeds.Observation.every: a duration lies between"),
        ("every: 5m", "every: 999999999d", "14: practices.AB.feeds.Observation.every: a duration lies between"),
        ("every: 5m", "evry: 5m", "unknown key evry; did you mean every?"),
        ("every: 5m", 'cron: "61 * * * *"', "14: practices.AB.feeds.Observation.cron: not a cron schedule"),
        (
            "every: 5m",
            'every: 5m, cron: "1 * * * *"',
            "14: practices.AB.feeds.Observation: both every and cron; keep one",
        ),
        ("every: 5m", 'sweep_every: 5m, sweep_cron: "1 * * * *"', "both sweep_every and sweep_cron; keep one"),
        ("every: 5m", "active: {hours: 7-19}", "Observation.active: not hours of a day"),
        ("every: 5m", "active: {hours: 07:00-07:00}", "Observation.active: not hours of a day"),
        ("every: 5m", "active: {hours: 07:00-19:00, days: mo-fr}", "Observation.active: not days of the week"),
        ("every: 5m", "categories: [http://x|laboratory]", "categories: not a category; write its plain code"),
        ("every: 5m", "categories: laboratory", "categories: not a list; write for example categories: [laboratory"),
        ("every: 5m", "page_size: 0", "page_size: out of range"),
        ("      Patient:\n      Observation: {every: 5m}\n", "", "add feeds:"),
        ("    feeds:", "    strategy: windows\n    feeds:", "not valid: windows; did you mean window?"),
        ("    feeds:", "    time_zone: America/NewYork\n    feeds:", "did you mean America/New_York?"),
        (
            "    feeds:",
            "    budget: {share: 1.5}\n    feeds:",
            "budget.share: out of range, it must be less than or equal to",
        ),
        ("    feeds:", "    budget: {share: 0}\n    feeds:", "budget.share: out of range, it must be greater than 0"),
        ("    feeds:", "    budget: {calls_per_minute: true}\n    feeds:", "calls_per_minute: not a whole number"),
        (
            "    feeds:",
            "    budget: 250\n    feeds:",
            "budget: not a mapping of keys; write for example budget: {calls",
        ),
        ("    feeds:", "    deletes: {max_fraction: 1.01}\n    feeds:", "max_fraction: out of range"),
        ("    feeds:", "    patients: {names: []}\n    feeds:", "patients: names: empty, and no roster"),
        ("  AB:", "  A-B:", "8: practices.A-B: not a practice code; write 1 to 32 letters and digits"),
        ("    key: {file: key.pem}\n", "", "8: practices.AB: key is missing; add key: {file:"),
        ("client_id: poller", "client_id:", "10: practices.AB.client_id: client_id is missing; add client_id:"),
        ("client_id: poller", 'client_id: ""', "10: practices.AB.client_id: empty"),
        (
            "    feeds:",
            "    auth: basic\n    feeds:",
            "12: practices.AB.auth: not valid: basic; valid here: none, smart",
        ),
        ("    feeds:", "    tls: {ca: ca.pem}\n    feeds:", "12: practices.AB.tls.ca: there is no file "),
        (
            "    feeds:",
            "    tls: {ca: key.pem}\n    feeds:",
            "key.pem holds no sound certificate in PEM; it should begin",
        ),
        ("    feeds:", "    tls: {ca: .}\n    feeds:", "cannot be read (IsADirectoryError); make it readable"),
        ("    feeds:", "    tls: {verify: false}\n    feeds:", "unknown key verify; valid here: ca"),
        (
            "    feeds:",
            "    proxy: socks5://h:1\n    feeds:",
            "12: practices.AB.proxy: neither an http nor an https proxy",
        ),
        (
            "    feeds:",
            "    proxy: proxy:3128\n    feeds:",
            "proxy: not a URL with a host; write for example http://pro",
        ),
        ("    feeds:", "    proxy: http://u@h:1\n    feeds:", "proxy: a proxy that wants a user is named in the env"),
        ("    feeds:", "    proxy: http://u:hunter2Hunter2@h:1\n    feeds:", "take it out and set HTTPS_PROXY instead"),
        ("    feeds:", "    proxy: http://h:1/x\n    feeds:", "proxy: a path, a query or a fragment has no place"),
        ("base_url: https://", "base_url: ftp://", "base_url: neither https nor http"),
        ("base_url: https://", "base_url: ", "base_url: not a URL with a host"),
        ("base_url: https://", "base_url: http://", "base_url: http off this machine"),
        ("    feeds:", "    token_url: http://auth.example.org/t\n    feeds:", "token_url: http off this machine"),
        ("fhir.changes,", "amq.topic,", "sinks.changes.exchange: not a name"),
        ("queues: [fhir.changes.all]", "queues: []", "sinks.changes.queues: empty"),
        (
            "queues: [",
            "only: {types: [Observatoin]}, queues: [",
            "types: no such resource type: Observatoin; did you mean Obs",
        ),
        ("queues: [", "only: {actions: [create]}, queues: [", "actions: no such action: create; did you mean created?"),
        ("queues: [", "only: {practices: [AC]}, queues: [", "6: no such practice: AC; did you mean AB?"),
        ("queues: [", "payload: full, queues: [", "not valid: full; valid here: full-resource, id-only"),
        ("queues: [", f"queues: [{'q' * 48}, ", "the embedded broker takes queue names of at most 47"),
        (
            "practices:",
            "  more: {exchange: fhir.changes, queues: [q]}\npractices:",
            "changes and more share the exchange",
        ),
        (
            "practices:",
            "  more: {exchange: e, queues: [fhir_changes.all]}\npractices:",
            "already a queue of sink changes",
        ),
        (
            "practices:",
            "  changes: {exchange: e, queues: [q]}\npractices:",
            "7: key changes stands here a second time, first in line 6",
        ),
        ("practices:", "practices:\n  CD: {base_url: https://fhir.example.org/r4/ab/}", "have one base_url"),
        ("practices:", "practices: {}\nother:", "practices: empty"),
        (
            "sinks:\n  changes: {exchange: fhir.changes, queues: [fhir.changes.all]}\n",
            "",
            "no sinks, so changes would go nowhere",
        ),
        (
            "practices:",
            "defaults: {feeds: {Obsrvation: }}\npractices:",
            "7: defaults.feeds.Obsrvation: no such resource type",
        ),
        ("practices:", "defaults: {feeds: {Goal: {evry: 5m}}}\npractices:", "7: defaults.feeds.Goal.evry: unknown key"),
        ("practices:", "defaults: {every_fed: {}}\npractices:", "did you mean every_feed?"),
        ("practices:", "defaults: {budget: {share: 2}}\npractices:", "7: defaults.budget.share: out of range"),
        ("broker:", "nonsense:\nbroker:", "3: nonsense: unknown key nonsense; "),
        ("sinks:", "sinks:\n  empty:", "6: sinks.empty: not a mapping of keys"),
        ("practices:", "defaults: 5\npractices:", "7: defaults: not a mapping of keys"),
        (
            "embedded}\nbroker",
            "postgresql://h.example.org/p}\nbroker",
            "2: store.url: PostgreSQL off this machine needs",
        ),
        ("embedded}\nbroker", '"postgresql://127.0.0.1,h.example.org/p"}\nbroker', "PostgreSQL off this machine needs"),
        (
            "embedded}\nbroker",
            '"postgresql://127.0.0.1/p?host=h.example.org"}\nbroker',
            "PostgreSQL off this machine needs",
        ),
        (
            "embedded}\nbroker",
            '"postgresql://127.0.0.1/p?hostaddr=10.0.0.1"}\nbroker',
            "PostgreSQL off this machine needs",
        ),
        ("embedded}\nbroker", '"postgresql://h.example.org/p?sslmode=require"}\nbroker', "add ?sslmode=verify-full"),
        ("embedded}\nbroker", "postgresql:///p}\nbroker", "the URL must name its host itself"),
        ("embedded}\nbroker", "mysql://127.0.0.1/p}\nbroker", "not a PostgreSQL URL"),
        (
            "embedded}\nhttp",
            "amqp://h.example.org}\nhttp",
            "3: broker.url: a broker off this machine needs TLS; write amqps://",
        ),
        ("embedded}\nhttp", "amqps://h.example.org;amqp://i.example.org}\nhttp", "a broker off this machine needs TLS"),
        ("embedded}\nhttp", '"amqps://h.example.org//?ssl_cert_reqs=none"}\nhttp', "a query has no place in this URL"),
        ("embedded}\nhttp", "embedded, ca: ca.pem}\nhttp", "3: broker.ca: there is no file "),
        (
            "embedded}\nhttp",
            "embedded, ca: ours.pem}\nhttp",
            "3: broker: ca: only RabbitMQ over TLS is held against it",
        ),
        ("embedded}\nhttp", "memory://127.0.0.1}\nhttp", "neither an AMQP URL nor one of kombu's other transports"),
        ("embedded}\nhttp", "redis://h.example.org}\nhttp", "a broker off this machine needs TLS; write rediss://"),
        ("embedded}\nhttp", "kafka://h.example.org}\nhttp", "needs TLS; reach it through a tunnel"),
        ("embedded}\nhttp", "kafka://}\nhttp", "not a URL with a host"),
        ("embedded}\nhttp", '"rediss://h.example.org?ssl_cert_reqs=none"}\nhttp', "a query has no place in this URL"),
        ("embedded}\nhttp", "filesystem://spool}\nhttp", "not a directory; write filesystem:///var/spool/poller"),
        (
            "127.0.0.1:9464",
            "0.0.0.0:9464",
            "4: http: listen is open to the network; write 127.0.0.1:9464, or public: true",
        ),
        ("127.0.0.1:9464", "[::]:9464", "listen is open to the network"),
        ('http: {listen: "127.0.0.1:9464"}', 'api: {listen: "0.0.0.0:9465"}', "give certificate and key"),
        ('http: {listen: "127.0.0.1:9464"}', "api: {key: {env: HOME}}", "must stand in a file; write {file: path}"),
        ('http: {listen: "127.0.0.1:9464"}', "api: {key: {file: key.pem}}", "certificate and key go together"),
        ("127.0.0.1:9464", "9464", "not a host and port"),
        ("127.0.0.1:9464", "127.0.0.1:99999", "not a host and port"),
        ("{file: key.pem}", "{file: none.pem}", "there is no file"),
        ("{file: key.pem}", "{file: .}", "is not a file"),
        ("{file: key.pem}", "{file: poller.yaml}", "can be read by others; run: chmod 600"),
        ("{file: key.pem}", "{env: POLLER_UNSET}", "the environment variable POLLER_UNSET is not set"),
        (
            "{file: key.pem}",
            "{env: POLLER_UNSET, file: key.pem}",
            "a secret has exactly one place; write {env: NAME} or {file: path}",
        ),
        ("{file: key.pem}", "{}", "a secret has exactly one place"),
        ("{file: key.pem}", "!!binary abc", "tags (!…) are not read here"),
    ],
)
def test_each_wrong_thing_is_told_where_it_stands(place: Path, right: str, wrong: str, problem: str) -> None:
    assert right in RIGHT
    (place / "poller.yaml").touch()
    (place / "poller.yaml").chmod(0o644)
    problems = told(place, RIGHT.replace(right, wrong, 1))
    assert any(problem in each for each in problems), problems
    assert all("; " in each for each in problems), "says what would be right"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("embedded}\nbroker", f"postgresql://u:{SECRET}@127.0.0.1/p}}\nbroker"),
        ("embedded}\nbroker", f'"postgresql://u:{SECRET}/#@127.0.0.1/p"}}\nbroker'),
        ("embedded}\nbroker", f'"postgresql://127.0.0.1/p?password={SECRET}"}}\nbroker'),
        ("embedded}\nbroker", f"embedded, password: {SECRET}}}\nbroker"),
        ("embedded}\nbroker", f"embedded, password: [{SECRET}]}}\nbroker"),
        ("embedded}\nhttp", f"amqp://guest:{SECRET}@127.0.0.1//}}\nhttp"),
        ("{file: key.pem}", SECRET),
        ("{file: key.pem}", f'"-----BEGIN PRIVATE KEY-----{SECRET}"'),
        ("client_id: poller", f"client_id: poller\n    client_secret: {SECRET}"),
        ("client_id: poller", f"client_id: poller\n    access_token: {SECRET}"),
        ("client_id: poller", f"client_id: eyJhbGciOiJSUzM4NCJ9.{SECRET}.x"),
        ("base_url: https://", f"base_url: https://u:{SECRET}@"),
    ],
)
def test_a_secret_in_the_clear_is_refused_and_not_repeated(place: Path, right: str, wrong: str) -> None:
    problems = told(place, RIGHT.replace(right, wrong, 1))
    assert any("take it out" in each and "{env: NAME}" in each for each in problems), problems


def test_a_key_that_is_none_is_refused_and_not_repeated(place: Path) -> None:
    (place / "bad.pem").write_text(SECRET)
    (place / "bad.pem").chmod(0o600)
    (only,) = told(place, RIGHT.replace("key.pem", "bad.pem"))
    assert "not a private key in PEM" in only


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("embedded}\nbroker", '"postgresql://u@h.example.org/p?sslmode=verify-full", password: {file: pw}}\nbroker'),
        ("embedded}\nbroker", '"postgresql+psycopg:///p?host=/run/postgresql"}\nbroker'),
        ("embedded}\nbroker", '"postgresql://[::1]:5432/p"}\nbroker'),
        ("embedded}\nhttp", "amqps://u@h.example.org//}\nhttp"),
        ("embedded}\nhttp", "amqps://u@h.example.org//, ca: ours.pem}\nhttp"),
        ("embedded}\nhttp", "amqp://localhost//;amqp://127.0.0.2//}\nhttp"),
        ('"127.0.0.1:9464"', '"0.0.0.0:9464", public: true'),
        ("base_url: https://fhir.example.org", "base_url: http://127.0.0.1:8765"),
    ],
)
def test_what_is_safe_is_taken(place: Path, right: str, wrong: str) -> None:
    (place / "pw").write_text("x\n")
    (place / "pw").chmod(0o600)
    assert told(place, RIGHT.replace(right, wrong, 1)) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "/run/postgresql"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org", "127.1", ""],  # noqa: S104 - refused
)
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_all_problems_come_at_once_in_the_order_of_lines(place: Path) -> None:
    text = RIGHT.replace("data_dir", "datadir").replace("embedded", "x").replace("Patient:", "Pat:").replace("5m", "5")
    lines = [int(each.split(":")[0]) for each in told(place, text)]
    assert lines == sorted(lines)
    assert {1, 2, 3, 13, 14} <= set(lines)


def test_a_mistake_in_the_defaults_is_told_once(place: Path) -> None:
    text = RIGHT.replace("practices:", "defaults: {overlap: 5}\npractices:\n  CD: {base_url: https://c.example.org}")
    assert len([each for each in told(place, text) if "overlap" in each]) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: the file holds no mapping"),
        ("- a\n- b", "1: the file holds no mapping"),
        ("a: &x 1\nb: *x", "2: aliases are not read here; write what repeats under defaults:"),
        ("a: &x [*x]", "1: aliases are not read here"),
        ("a:\n\t- b", "2: not YAML from here on"),
        ("a: 'b", "not YAML from here on"),
        ("a: 1\n---\nb: 2", "not YAML from here on"),
        ("[" * 5000, "1: nested too deeply"),
        ("a: {" * 50, "nested too deeply"),
        ('a: "\\UFFFFFFFF"', "not YAML"),
        ("a: \x07", "not YAML"),
        ("? [a, b]\n: c", "1: a key must be a word"),
    ],
)
def test_what_is_no_yaml_is_told_where_it_breaks(place: Path, text: str, problem: str) -> None:
    assert any(problem in each for each in told(place, text)), told(place, text)


def test_a_file_that_is_not_there_or_no_text_is_told(place: Path) -> None:
    assert "the file cannot be read (FileNotFoundError)" in config.problems(place / "none.yaml")[0]
    assert "the file cannot be read (IsADirectoryError)" in config.problems(place)[0]
    (place / "latin.yaml").write_bytes(b"a: b\nc: \xe9\n")
    assert "latin.yaml:2: not UTF-8" in config.problems(place / "latin.yaml")[0]


words = st.text(max_size=8) | st.sampled_from(
    re.findall(
        r"[\w.:-]+", RIGHT + " defaults every_feed cron active budget only types env null true 1.5 -3 $data_dir/x"
    )
)
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(garbage)
def test_any_tree_is_loaded_or_refused_and_nothing_else(place: Path, tree: object) -> None:
    told(place, yaml.safe_dump(tree, allow_unicode=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(RIGHT)), st.integers(0, 12), words | st.text(max_size=5) | garbage.map(str))
def test_any_damage_to_a_right_file_is_loaded_or_refused_and_nothing_else(
    place: Path, at: int, cut: int, put: str
) -> None:
    file = place / "poller.yaml"
    file.write_bytes((RIGHT[:at] + put + RIGHT[at + cut :]).encode("utf-8", "surrogatepass"))
    try:
        config.load(file)
    except ConfigError as refused:
        assert refused.problems  # noqa: PT017 - either way is right; only another exception would not be
