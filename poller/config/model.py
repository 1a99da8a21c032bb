"""What a configuration holds, defaults merged in. Durations are ``datetime.timedelta``; every value is immutable.

Each key's ``examples`` are what a refusal shows as right, so every key has one.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from poller.config.active import ActiveHours
from poller.config.secret import Secret, check_private_key
from poller.config.values import (
    DEFAULT_CATEGORIES,
    EMBEDDED,
    READ_ONLY_SCOPES,
    BrokerUrl,
    Category,
    Code,
    Cron,
    Duration,
    Listen,
    NamePrefix,
    ResourceType,
    SourceUrl,
    StoreUrl,
    TimeZone,
    Word,
    check_action,
    is_loopback,
    parse_directory,
    show_duration,
    split_listen,
)

Reading = Literal["auto", "window", "sweep", "patient"]
Payload = Literal["id-only", "full-resource"]
STRATEGIES: tuple[str, ...] = get_args(Reading)


class Section(BaseModel):
    """A mapping of known keys; one left empty has its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        return {key: value for key, value in said.items() if value is not None or key not in cls.model_fields}


class StoreConfig(Section):
    """Where snapshots, history and events stand."""

    url: StoreUrl = Field(default=EMBEDDED, examples=["embedded"])
    password: Secret | None = Field(default=None, examples=["{env: POLLER_STORE_PASSWORD}"])
    digest_key: Secret | None = Field(default=None, examples=["{file: /etc/poller/digest.key}"])
    """Key of the digests; without it the installation makes its own."""


class BrokerConfig(Section):
    """Where events go."""

    url: BrokerUrl = Field(default=EMBEDDED, examples=["embedded"])
    password: Secret | None = Field(default=None, examples=["{env: POLLER_BROKER_PASSWORD}"])


class SinkFilter(Section):
    """What a sink gets; nothing named means everything."""

    practices: tuple[Code, ...] = Field(default=(), examples=["[FAMLYMED]"])
    types: tuple[ResourceType, ...] = Field(default=(), examples=["[Observation, DiagnosticReport]"])
    actions: tuple[Annotated[str, AfterValidator(check_action)], ...] = Field(
        default=(), examples=["[created, updated]"]
    )


class SinkConfig(Section):
    """One way out: an exchange of its own, and the queues bound to it by the filter."""

    payload: Payload = Field(default="id-only", examples=["id-only"])
    exchange: Word = Field(examples=["fhir.changes"])
    baseline: Literal["publish", "skip"] = Field(default="skip", examples=["skip"])
    """Whether what a target's first complete pass finds is published."""
    queues: tuple[Word, ...] = Field(min_length=1, examples=["[fhir.changes.all]"])
    only: SinkFilter = Field(default=SinkFilter(), examples=["{types: [Observation]}"])


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


class BudgetConfig(Section):
    """What this poller may ask of a practice, in calls, token calls included."""

    calls_per_minute: int = Field(default=250, gt=0, le=1_000_000, examples=["250"])
    share: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False, examples=["0.8"])
    """The part of the limit that is ours, where other apps share it."""
    max_in_flight: int = Field(default=12, gt=0, le=1_000, examples=["12"])


class PatientsConfig(Section):
    """How patients are enumerated where no search lists them all: by the beginnings of their names."""

    names: tuple[NamePrefix, ...] = Field(
        default=tuple("abcdefghijklmnopqrstuvwxyz"), min_length=1, examples=["[a, b, c]"]
    )


class DeletesConfig(Section):
    """How many of a feed's resources may be deleted at once before the rest waits for a person."""

    max_fraction: float = Field(default=0.05, ge=0, le=1, allow_inf_nan=False, examples=["0.05"])
    min_count: int = Field(default=5, ge=0, examples=["5"])
    """So many always pass, however small the feed."""
    window: Duration = Field(default=dt.timedelta(hours=1), examples=["1h"])


class FeedConfig(Section):
    """One resource type of a practice, and when it is read."""

    categories: tuple[Category, ...] = Field(default=(), examples=["[laboratory, vital-signs]"])
    every: Duration | None = Field(default=None, examples=["5m"])
    cron: Cron | None = Field(default=None, examples=['"*/15 7-19 * * mon-fri"'])
    active: ActiveHours | None = Field(default=None, examples=['{hours: "07:00-19:00", days: mon-fri}'])
    sweep_every: Duration | None = Field(default=None, examples=["1h"])
    """How often everything is read by content, beside windows, which never show a delete."""
    sweep_cron: Cron | None = Field(default=None, examples=['"0 3 * * *"'])
    page_size: int | None = Field(default=None, gt=0, le=1_000, examples=["100"])
    """Asked for only where the server is proven to take it."""

    @model_validator(mode="before")
    @classmethod
    def _has_a_schedule(cls, said: Any) -> Any:
        """Exactly one of ``every`` and ``cron``, and of the two for sweeps; the first is the default."""
        if not isinstance(said, dict):
            return said
        chosen = dict(said)
        for every, cron, usual in (("every", "cron", "5m"), ("sweep_every", "sweep_cron", "1h")):
            if chosen.get(every) is not None and chosen.get(cron) is not None:
                raise ValueError(f"both {every} and {cron}; keep one of them")
            if chosen.get(every) is None and chosen.get(cron) is None:
                chosen[every] = usual
        return chosen

    def describe(self) -> str:
        """The schedule in a few words, e.g. ``every 5m mon-fri 07:00-19:00, whole every 1h``."""
        first = f"every {show_duration(self.every)}" if self.every else f"cron {self.cron}"
        if self.active:
            first += f" {self.active.days} {self.active.hours}"
        whole = f"every {show_duration(self.sweep_every)}" if self.sweep_every else f"cron {self.sweep_cron}"
        return f"{first}, whole {whole}"


class PracticeConfig(Section):
    """One practice, defaults merged in."""

    code: Code = Field(examples=["FAMLYMED"])
    base_url: SourceUrl = Field(examples=["https://fhir4.eclinicalworks.com/fhir/r4/FAMLYMED"])
    token_url: SourceUrl | None = Field(
        default=None, examples=["https://oauthserver.eclinicalworks.com/oauth/oauth2/token"]
    )
    """None: as the server's smart-configuration says."""
    client_id: str = Field(min_length=1, max_length=200, examples=["the-id-you-were-given"])
    key: Annotated[Secret, AfterValidator(check_private_key)] = Field(examples=["{file: /etc/poller/key.pem}"])
    kid: str | None = Field(default=None, min_length=1, max_length=200, examples=["poller-2025"])
    """None: the key's RFC 7638 thumbprint."""
    scopes: tuple[Annotated[str, Field(min_length=1, pattern=r"^[^\s]+$")], ...] = Field(
        default=(), examples=["[system/Patient.read]"]
    )
    time_zone: TimeZone = Field(default="UTC", examples=["America/New_York"])
    budget: BudgetConfig = Field(default=BudgetConfig(), examples=["{calls_per_minute: 250}"])
    timeout: Duration = Field(default=dt.timedelta(seconds=30), examples=["30s"])
    overlap: Duration = Field(default=dt.timedelta(seconds=60), examples=["60s"])
    """How far a window reaches back behind the server's clock of the pass before."""
    patients: PatientsConfig = Field(default=PatientsConfig(), examples=["{names: [a, b, c]}"])
    deletes: DeletesConfig = Field(default=DeletesConfig(), examples=["{max_fraction: 0.05}"])
    strategy: Reading = Field(default="auto", examples=["auto"])
    """``auto``: as the probe proves, per feed."""
    feeds: dict[ResourceType, FeedConfig] = Field(min_length=1, examples=["{Patient: {every: 5m}}"])

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, said: Any) -> Any:
        """Scopes and categories that follow from the feeds."""
        if not isinstance(said, dict) or not isinstance(said.get("feeds"), dict):
            return said
        feeds = {name: _with_categories(name, feed) for name, feed in said["feeds"].items()}
        scopes = tuple(
            f"system/{name}.{'r' if name in READ_ONLY_SCOPES else 'read'}" for name in feeds if isinstance(name, str)
        )
        return {**said, "feeds": feeds, "scopes": said.get("scopes") or scopes}

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The practice's time zone."""
        return zoneinfo.ZoneInfo(self.time_zone)


class Config(Section):
    """The whole configuration."""

    data_dir: Annotated[Path, BeforeValidator(parse_directory)] = Field(
        default=Path(".poller"), examples=["/var/lib/poller"]
    )
    """Embedded Postgres, keys and sockets; relative to the current directory."""
    store: StoreConfig = Field(default=StoreConfig(), examples=["{url: embedded}"])
    broker: BrokerConfig = Field(default=BrokerConfig(), examples=["{url: embedded}"])
    sinks: dict[Word, SinkConfig] = Field(
        default={}, examples=["{changes: {exchange: fhir.changes, queues: [fhir.changes.all]}}"]
    )
    http: HttpConfig = Field(default=HttpConfig(), examples=["{listen: 127.0.0.1:9464}"])
    logging: LoggingConfig = Field(default=LoggingConfig(), examples=["{format: json}"])
    practices: dict[str, PracticeConfig] = Field(min_length=1, examples=["{FAMLYMED: {…}}"])

    @property
    def is_embedded_store(self) -> bool:
        """Whether Postgres comes from the wheel, in the data directory."""
        return self.store.url == EMBEDDED

    @property
    def is_embedded_broker(self) -> bool:
        """Whether the queue stands in the embedded Postgres."""
        return self.broker.url == EMBEDDED


def _with_categories(name: object, feed: Any) -> Any:
    """The feed, with its type's default categories if it says none itself."""
    usual = DEFAULT_CATEGORIES.get(name) if isinstance(name, str) else None
    if usual is None:
        return feed
    if isinstance(feed, FeedConfig) and "categories" not in feed.model_fields_set:
        return feed.model_copy(update={"categories": usual})
    if isinstance(feed, dict) and feed.get("categories") is None:
        return {**feed, "categories": usual}
    return feed
