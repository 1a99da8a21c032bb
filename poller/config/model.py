"""What a configuration holds, defaults merged in. Durations are ``datetime.timedelta``; every value is immutable.

Each key's ``examples`` are what a refusal shows as right, so every key has one.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from poller.config.api import ApiConfig
from poller.config.encryption import EncryptionConfig
from poller.config.feed import FeedConfig, Reading, Rung
from poller.config.least import check_codes, check_drop
from poller.config.network import CaFile, ProxyUrl
from poller.config.noise import Noise
from poller.config.secret import Secret, check_private_key
from poller.config.section import Section
from poller.config.sinks import SinkConfig
from poller.config.values import (
    DEFAULT_CATEGORIES,
    DEFAULT_PARAMETERS,
    EMBEDDED,
    OTHER_TRANSPORTS,
    READ_ONLY_SCOPES,
    AuditRetention,
    BrokerUrl,
    Code,
    Duration,
    Listen,
    NamePrefix,
    ResourceType,
    Retention,
    SourceUrl,
    StoreUrl,
    TimeZone,
    Word,
    is_loopback,
    parse_directory,
    split_listen,
)
from poller.core.attachments import ELEMENTS

Payload = Literal["id-only", "full-resource"]
GivesWay = Literal["backfill", "reconcile", "index"]
GIVES_WAY: Final[tuple[GivesWay, ...]] = ("backfill", "reconcile", "index")
"""What gives way first where calls are short: first loads, content reads beside what is polled, the planner's own choice.

What a schedule or ``max_staleness`` owes never does: it is refused at load if it cannot be kept.
"""


class StoreConfig(Section):
    """Where snapshots, history and events stand."""

    url: StoreUrl = Field(default=EMBEDDED, examples=["embedded"])
    password: Secret | None = Field(default=None, examples=["{env: POLLER_STORE_PASSWORD}"])
    digest_key: Secret | None = Field(default=None, examples=["{file: /etc/poller/digest.key}"])
    """Key of the digests; without it the installation makes its own."""
    retention: Retention | None = Field(default=None, examples=["400d"])
    """How long history and events are kept; without it, for ever."""


class AuditConfig(Section):
    """Who read patients' data, and who had the poller do what."""

    retention: AuditRetention = Field(default=dt.timedelta(days=2192), examples=["2192d"])
    """How long it is kept, whatever becomes of history: six years, two leap days among them."""


class BrokerConfig(Section):
    """Where events go: the embedded queue or RabbitMQ; other transports of kombu, such as redis, rediss and sqs, are taken and untested."""

    url: BrokerUrl = Field(default=EMBEDDED, examples=["embedded", "amqps://user@host//", "redis://127.0.0.1"])
    password: Secret | None = Field(default=None, examples=["{env: POLLER_BROKER_PASSWORD}"])
    ca: CaFile | None = Field(default=None, examples=["/etc/poller/ca.pem"])
    """Certificates of the CAs that RabbitMQ's must be signed by; without it, the system's."""

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if self.ca is not None and not self.url.startswith("amqps:"):
            raise ValueError("ca: only RabbitMQ over TLS is held against it; write amqps://user@host//, or take ca out")
        return self


class HttpConfig(Section):
    """Where metrics, health and the status API answer."""

    listen: Listen = Field(default="127.0.0.1:9464", examples=["127.0.0.1:9464"])
    public: bool = Field(default=False, examples=["true"])

    @model_validator(mode="after")
    def _is_meant(self) -> Self:
        if not self.public and not is_loopback(split_listen(self.listen)[0]):
            raise ValueError("listen is open to the network; write 127.0.0.1:9464, or public: true if that is meant")
        return self


class LoggingConfig(Section):
    """How log lines look."""

    format: Literal["console", "json"] = Field(default="console", examples=["json"])
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", examples=["info"])


class ReloadConfig(Section):
    """When a running engine reads the file again, beside `poller reload` and SIGHUP."""

    watch: bool = Field(default=False, examples=["true"])
    """Whether it does so by itself when the file has changed."""


class BudgetConfig(Section):
    """What this poller may ask of a practice, in calls, token calls included."""

    calls_per_minute: int = Field(default=250, gt=0, le=1_000_000, examples=["250"])
    share: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False, examples=["0.8"])
    """The part of the limit that is ours, where other apps share it."""
    max_in_flight: int = Field(default=12, gt=0, le=1_000, examples=["12"])


class PatientsConfig(Section):
    """Where patients come from, where no search lists them all."""

    names: tuple[NamePrefix, ...] = Field(default=tuple("abcdefghijklmnopqrstuvwxyz"), examples=["[a, b, c]"])
    """Beginnings of their names, one search each; none means that names are not gone through."""
    roster: Annotated[Path, BeforeValidator(parse_directory)] | None = Field(
        default=None, examples=["/var/lib/poller/FAMLYMED.csv"]
    )
    """A file that lists them, CSV or NDJSON; read again whenever it has changed."""
    group: str | None = Field(default=None, min_length=1, max_length=200, examples=["the-group-id"])
    """A Group whose members they are."""
    practitioners: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(), examples=["[the-practitioner-id]"]
    )
    """Practitioners whose encounters of these days show patients."""
    days: Duration = Field(default=dt.timedelta(days=1), examples=["1d"])
    """How many days before and after today, where practitioners are given."""
    references: bool = Field(default=True, examples=["true"])
    """Whether a patient whom another resource names is read as well."""
    expected: int | None = Field(default=None, gt=0, le=10_000_000, examples=["30000"])
    """About how many there are, for plans made before they have been found."""

    @model_validator(mode="after")
    def _come_from_somewhere(self) -> Self:
        if not (self.names or self.roster or self.group or self.practitioners):
            raise ValueError("names: empty, and no roster, group or practitioners either; name one of them")
        return self


class BulkConfig(Section):
    """Bulk export beside the polls."""

    group: str = Field(min_length=1, max_length=200, examples=["the-group-id"])
    use: tuple[Literal["first-load", "reconcile"], ...] = Field(
        default=("first-load",), min_length=1, examples=["[first-load, reconcile]"]
    )
    every: Duration = Field(default=dt.timedelta(days=7), examples=["7d"])
    """How often an export reconciles what polls have found."""
    timeout: Duration = Field(default=dt.timedelta(hours=6), examples=["6h"])
    """How long a job may take before it is cancelled."""


class DeletesConfig(Section):
    """How many of a feed's resources may be deleted at once before the rest waits for a person."""

    max_fraction: float = Field(default=0.05, ge=0, le=1, allow_inf_nan=False, examples=["0.05"])
    min_count: int = Field(default=5, ge=0, examples=["5"])
    """So many always pass, however small the feed."""
    window: Duration = Field(default=dt.timedelta(hours=1), examples=["1h"])


class TlsConfig(Section):
    """Whom to trust."""

    ca: CaFile | None = Field(default=None, examples=["/etc/poller/ca.pem"])
    """Certificates of private CAs, trusted beside the system's."""


class PracticeConfig(Section):
    """One practice, defaults merged in."""

    code: Code = Field(examples=["FAMLYMED"])
    base_url: SourceUrl = Field(examples=["https://fhir4.eclinicalworks.com/fhir/r4/FAMLYMED"])
    token_url: SourceUrl | None = Field(
        default=None, examples=["https://oauthserver.eclinicalworks.com/oauth/oauth2/token"]
    )
    """None: as the server's smart-configuration says."""
    auth: Literal["smart", "none"] = Field(default="smart", examples=["smart"])
    """``smart``: SMART Backend Services; ``none``: the server asks for no token."""
    client_id: str | None = Field(
        default=None, validate_default=True, min_length=1, max_length=200, examples=["the-id-you-were-given"]
    )
    key: Annotated[Secret, AfterValidator(check_private_key)] | None = Field(
        default=None, validate_default=True, examples=["{file: /etc/poller/key.pem}"]
    )
    kid: str | None = Field(default=None, min_length=1, max_length=200, examples=["poller-2025"])
    """None: the key's RFC 7638 thumbprint."""
    scopes: tuple[Annotated[str, Field(min_length=1, pattern=r"^[^\s]+$")], ...] = Field(
        default=(), examples=["[system/Patient.read]"]
    )
    tls: TlsConfig = Field(default=TlsConfig(), examples=["{ca: /etc/poller/ca.pem}"])
    proxy: ProxyUrl | None = Field(default=None, examples=["http://proxy.example.org:3128"])
    """None: as the environment says; ``none``: no proxy whatever it says."""
    time_zone: TimeZone = Field(default="UTC", examples=["America/New_York"])
    budget: BudgetConfig = Field(default=BudgetConfig(), examples=["{calls_per_minute: 250}"])
    timeout: Duration = Field(default=dt.timedelta(seconds=30), examples=["30s"])
    overlap: Duration = Field(default=dt.timedelta(seconds=60), examples=["60s"])
    """How far a window reaches back behind the server's clock of the pass before."""
    patients: PatientsConfig = Field(default=PatientsConfig(), examples=["{names: [a, b, c]}"])
    deletes: DeletesConfig = Field(default=DeletesConfig(), examples=["{max_fraction: 0.05}"])
    noise: Noise = Field(default={}, examples=["{Observation: [meta.tag]}"])
    """By type: paths whose content makes no event, besides what is left out anyway; see :mod:`poller.core.noise`."""
    strategy: Reading = Field(default="auto", examples=["auto"])
    """``auto``: as the probe proves, per feed."""
    forbid: tuple[Rung, ...] = Field(default=(), examples=["[everything, patients]"])
    """Rungs that are not to be used, whatever a probe proves."""
    patients_per_call: int = Field(default=8, ge=2, le=100, examples=["8"])
    """Of the rung ``patients``."""
    bulk: BulkConfig | None = Field(default=None, examples=["{group: the-group-id}"])
    gives_way: tuple[GivesWay, ...] = Field(default=GIVES_WAY, examples=["[backfill, reconcile, index]"])
    """What gives way where calls are short, the first named first."""
    feeds: dict[ResourceType, FeedConfig] = Field(min_length=1, examples=["{Patient: {every: 5m}}"])

    @field_validator("gives_way")
    @classmethod
    def _names_each_once(cls, said: tuple[GivesWay, ...]) -> tuple[GivesWay, ...]:
        if sorted(said) != sorted(GIVES_WAY):
            raise ValueError(f"not an order of all that can give way; write each once, as in [{', '.join(GIVES_WAY)}]")
        return said

    @model_validator(mode="after")
    def _attach_to_notes(self) -> Self:
        for name, feed in self.feeds.items():
            if feed.attachments is not None and name not in ELEMENTS:
                raise ValueError(
                    f"feeds.{name}.attachments: {name} names none; these do: {', '.join(sorted(ELEMENTS))}"
                )
        return self

    @model_validator(mode="after")
    def _drop_what_can_be_done_without(self) -> Self:
        for name, feed in self.feeds.items():
            try:
                check_drop(name, feed.drop, attachments=feed.attachments is not None)
            except ValueError as error:
                raise ValueError(f"feeds.{name}.drop: {error}") from None
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, said: Any) -> Any:
        """Scopes and categories that follow from the feeds."""
        if not isinstance(said, dict) or not isinstance(said.get("feeds"), dict):
            return said
        feeds = {name: _with_the_usual(name, feed) for name, feed in said["feeds"].items()}
        scopes = tuple(
            f"system/{name}.{'r' if name in READ_ONLY_SCOPES else 'read'}" for name in feeds if isinstance(name, str)
        )
        if any(_fetches_attachments(feed) for feed in feeds.values()):
            scopes += ("system/Binary.r",)
        if said.get("bulk") is not None or _names_a_group(said.get("patients")):
            scopes += ("system/Group.read",)
        return {**said, "feeds": feeds, "scopes": said.get("scopes") or scopes}

    @field_validator("client_id", "key")
    @classmethod
    def _is_there_where_it_is_needed(cls, said: Any, info: ValidationInfo) -> Any:
        if said is None and info.data.get("auth") != "none":
            raise PydanticCustomError("missing", "missing")
        return said

    def strategy_of(self, feed: str) -> str:
        """What the configuration says of how a feed is read; ``auto``: as the probe proves."""
        config = self.feeds.get(feed)
        return (config.strategy if config is not None else None) or self.strategy

    def forbidden(self, feed: str) -> frozenset[str]:
        """Rungs that the configuration forbids for a feed."""
        config = self.feeds.get(feed)
        return frozenset(self.forbid) | frozenset(config.forbid if config is not None else ())

    @property
    def drop(self) -> Mapping[str, tuple[str, ...]]:
        """By type: paths whose content is taken out of resources; see :mod:`poller.config.least`."""
        return {name: tuple(sorted(set(feed.drop))) for name, feed in self.feeds.items() if feed.drop}

    @property
    def left_out(self) -> Mapping[str, tuple[str, ...]]:
        """By type: paths whose content makes no event, for it is noise or dropped."""
        types = {*self.noise, *self.drop}
        return {name: tuple(sorted({*self.noise.get(name, ()), *self.drop.get(name, ())})) for name in types}

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The practice's time zone."""
        return zoneinfo.ZoneInfo(self.time_zone)


class Config(Section):
    """The whole configuration."""

    name: Word = Field(default="poller", examples=["results"])
    """Tells pollers of different practices on one store apart; the same for all processes that share the work of one configuration."""
    data_dir: Annotated[Path, BeforeValidator(parse_directory)] = Field(
        default=Path(".poller"), examples=["/var/lib/poller"]
    )
    """Embedded Postgres, keys and sockets; relative to the current directory."""
    store: StoreConfig = Field(default=StoreConfig(), examples=["{url: embedded}"])
    encryption: EncryptionConfig = Field(
        default=EncryptionConfig(), examples=["{keys: [{name: k2026, file: /etc/poller/k2026}]}"]
    )
    broker: BrokerConfig = Field(default=BrokerConfig(), examples=["{url: embedded}"])
    sinks: dict[Word, SinkConfig] = Field(
        default={}, examples=["{changes: {exchange: fhir.changes, queues: [fhir.changes.all]}}"]
    )
    http: HttpConfig = Field(default=HttpConfig(), examples=["{listen: 127.0.0.1:9464}"])
    api: ApiConfig = Field(default=ApiConfig(), examples=["{listen: 127.0.0.1:9465}"])
    audit: AuditConfig = Field(default=AuditConfig(), examples=["{retention: 2192d}"])
    logging: LoggingConfig = Field(default=LoggingConfig(), examples=["{format: json}"])
    reload: ReloadConfig = Field(default=ReloadConfig(), examples=["{watch: true}"])
    practices: dict[str, PracticeConfig] = Field(min_length=1, examples=["{FAMLYMED: {…}}"])

    @field_validator("practices")
    @classmethod
    def _keep_what_sinks_choose_by(
        cls, practices: dict[str, PracticeConfig], info: ValidationInfo
    ) -> dict[str, PracticeConfig]:
        check_codes(practices, info.data.get("sinks", {}))
        return practices

    @property
    def is_embedded_store(self) -> bool:
        """Whether Postgres comes from the wheel, in the data directory."""
        return self.store.url == EMBEDDED

    @property
    def is_embedded_broker(self) -> bool:
        """Whether the queue stands in the embedded Postgres."""
        return self.broker.url == EMBEDDED

    @property
    def untested_transport(self) -> str | None:
        """The transport of kombu by which events go, if it is one that is taken and not promised."""
        scheme = self.broker.url.partition(":")[0]
        return scheme if scheme in OTHER_TRANSPORTS else None


def _with_the_usual(name: object, feed: Any) -> Any:
    """The feed, with its type's default categories and parameters where it says none itself."""
    if not isinstance(name, str):
        return feed
    for key, defaults in (("categories", DEFAULT_CATEGORIES), ("parameters", DEFAULT_PARAMETERS)):
        usual = defaults.get(name)
        if usual is None:
            continue
        if isinstance(feed, FeedConfig) and key not in feed.model_fields_set:
            feed = feed.model_copy(update={key: usual})
        elif isinstance(feed, dict) and feed.get(key) is None:
            feed = {**feed, key: usual}
    return feed


def _fetches_attachments(feed: Any) -> bool:
    return (feed.get("attachments") if isinstance(feed, dict) else getattr(feed, "attachments", None)) is not None


def _names_a_group(patients: Any) -> bool:
    return (patients.get("group") if isinstance(patients, dict) else getattr(patients, "group", None)) is not None
