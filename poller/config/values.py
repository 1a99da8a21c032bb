"""The kinds of value a configuration is made of: durations, schedules, addresses, types of resource.

Every function here takes what was written and gives the value, or raises ValueError with "what is wrong; what would be right".
No message repeats a value that could hold a secret.
"""

from __future__ import annotations

import datetime as dt
import difflib
import ipaddress
import re
import zoneinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import SplitResult, urlsplit

from apscheduler.triggers.cron import CronTrigger
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator

from poller.core.model import Action

if TYPE_CHECKING:
    from collections.abc import Iterable

EMBEDDED: Final = "embedded"

RESOURCE_TYPES: Final = (
    "AllergyIntolerance",
    "CarePlan",
    "CareTeam",
    "ChargeItem",
    "Claim",
    "Condition",
    "Coverage",
    "Device",
    "DiagnosticReport",
    "DocumentReference",
    "Encounter",
    "FamilyMemberHistory",
    "Goal",
    "Immunization",
    "Location",
    "Media",
    "Medication",
    "MedicationAdministration",
    "MedicationDispense",
    "MedicationRequest",
    "Observation",
    "Organization",
    "Patient",
    "Practitioner",
    "PractitionerRole",
    "Procedure",
    "Provenance",
    "QuestionnaireResponse",
    "RelatedPerson",
    "ServiceRequest",
    "Specimen",
)
"""What can be a feed: the R4 types of care that eClinicalWorks names in its CapabilityStatement."""

READ_ONLY_SCOPES: Final = frozenset(
    {
        "Binary",
        "Claim",
        "Coverage",
        "Media",
        "MedicationDispense",
        "QuestionnaireResponse",
        "RelatedPerson",
        "ServiceRequest",
        "Specimen",
    }
)
"""Types for which eClinicalWorks knows ``.r`` and no ``.read``; one unknown scope fails the whole token request."""

DEFAULT_CATEGORIES: Final = {
    "CarePlan": ("assess-plan",),
    "Observation": ("laboratory", "vital-signs", "social-history", "survey", "exam", "imaging", "sdoh"),
}
"""eClinicalWorks answers a search of these without category incompletely, or with 400."""

DEFAULT_PARAMETERS: Final = {"CareTeam": {"status": "active"}}
"""What eClinicalWorks wants with every search of a type."""

_UNITS: Final = {
    "ms": dt.timedelta(milliseconds=1),
    "s": dt.timedelta(seconds=1),
    "m": dt.timedelta(minutes=1),
    "h": dt.timedelta(hours=1),
    "d": dt.timedelta(days=1),
}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_DURATION_HINT = "write a number and a unit: 500ms, 30s, 5m, 1h or 1d"
_LONGEST = dt.timedelta(days=366)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_CODE = re.compile(r"[A-Za-z0-9]{1,32}")
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME = re.compile(r"[^\s&=,|?#]{1,32}")


def nearest(word: str, valid: Iterable[str]) -> str:
    """What ``word`` was probably meant to be, as the second half of a message."""
    options = sorted(valid)
    lowered = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    if close:
        return f"did you mean {lowered[close[0]]}?"
    return "valid here: " + ", ".join(options) if options else "nothing is valid here"


def shown(word: str) -> str:
    """A name as a message may repeat it: plain and short, or not at all."""
    return word if re.fullmatch(r"[A-Za-z0-9_.:*/ -]{1,40}", word) else "(not shown)"


def parse_directory(written: object) -> object:
    """A directory's path, absolute; ``~`` is the home of this user."""
    if not isinstance(written, str):
        return written
    if not written.strip() or not written.isprintable():
        raise ValueError("not a path; write for example .poller")
    try:
        return Path.cwd() / Path(written).expanduser()
    except RuntimeError:
        raise ValueError("there is no such user's home; write the whole path") from None


def parse_duration(written: object) -> dt.timedelta:
    """``500ms``, ``30s``, ``5m``, ``1h``, ``1d``; longer than nothing and at most a year."""
    if isinstance(written, dt.timedelta):
        value = written
    else:
        match = _DURATION.fullmatch(written) if isinstance(written, str) else None
        if match is None:
            raise ValueError(f"not a duration; {_DURATION_HINT}")
        value = min(int(match[1]), _LONGEST // _UNITS[match[2]] + 1) * _UNITS[match[2]]
    if not dt.timedelta(0) < value <= _LONGEST:
        raise ValueError(f"a duration lies between 1ms and 366d; {_DURATION_HINT}")
    return value


def parse_retention(written: object) -> object:
    """A number of days, from a month to a century: what is dropped is dropped by whole months."""
    hint = "write a number of days, 31d or more, e.g. 400d; leave it out to keep everything"
    if isinstance(written, dt.timedelta):
        days = written.days
    else:
        match = re.fullmatch(r"([0-9]{1,5})d", written) if isinstance(written, str) else None
        if match is None:
            raise ValueError(f"not a time to keep history for; {hint}")
        days = int(match[1])
    if not 31 <= days <= 36_525:  # noqa: PLR2004 - a month, and a century
        raise ValueError(f"history is kept for 31d to 36525d; {hint}")
    return dt.timedelta(days=days)


def parse_audit_retention(written: object) -> object:
    """A number of days, from a year, below which the store removes nothing, to a century."""
    hint = "write a number of days, 365d or more, e.g. 2192d"
    if isinstance(written, dt.timedelta):
        days = written.days
    else:
        match = re.fullmatch(r"([0-9]{1,5})d", written) if isinstance(written, str) else None
        if match is None:
            raise ValueError(f"not a time to keep the audit for; {hint}")
        days = int(match[1])
    if not 365 <= days <= 36_525:  # noqa: PLR2004 - a year, and a century
        raise ValueError(f"the audit is kept for 365d to 36525d; {hint}")
    return dt.timedelta(days=days)


def show_duration(value: dt.timedelta) -> str:
    """The shortest spelling that :func:`parse_duration` reads back, to the millisecond."""
    for unit in ("d", "h", "m", "s"):
        if not value % _UNITS[unit]:
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value // _UNITS['ms']}ms"


def show_hours(value: dt.timedelta) -> str:
    """As :func:`show_duration`, with hours for whole days: bounds are thought of in hours, 72h rather than 3d."""
    hours = value / dt.timedelta(hours=1)
    return f"{hours:.0f}h" if hours >= 1 and hours == round(hours) else show_duration(value)


_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""As crontab numbers them, from 0 to 7."""
_NUMBERED = re.compile(r"(?:\*|(?P<first>[0-7])(?:-(?P<last>[0-7]))?)(?:/(?P<step>[1-7]))?")


def cron_trigger(written: str, zone: dt.tzinfo) -> CronTrigger:
    """When five fields of a crontab fire. ValueError and others of APScheduler's for what is no such thing.

    APScheduler numbers weekdays from Monday, 0; crontab has Sunday for 0 and 7, and so do we.
    """
    fields = written.split()
    if len(fields) == 5:  # noqa: PLR2004 - minute, hour, day, month, weekday
        fields[4] = ",".join(_named_weekdays(part) for part in fields[4].split(","))
    return CronTrigger.from_crontab(" ".join(fields), timezone=zone)


def _named_weekdays(part: str) -> str:
    """One part of a list of weekdays, with names for numbers; what has none stays."""
    match = _NUMBERED.fullmatch(part)
    if match is None or part == "*":
        return part
    first, last, step = int(match["first"] or 0), match["last"], int(match["step"] or 1)
    end = int(last) if last else first if match["first"] and not match["step"] else 6
    if end < first:
        raise ValueError("weekdays that end before they begin")
    return ",".join(_WEEKDAYS[day] for day in range(first, end + 1, step))


def check_cron(written: str) -> str:
    """Five fields as crontab has them, by the parser of the scheduler that will use them."""
    hint = 'write five fields, minute hour day month weekday, as in "*/15 7-19 * * mon-fri"'
    try:
        cron_trigger(written, dt.UTC)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError):
        raise ValueError(f"not a cron schedule; {hint}") from None
    return written


def check_time_zone(written: str) -> str:
    """A name of the IANA time zone database."""
    try:
        zoneinfo.ZoneInfo(written)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"not a time zone: {shown(written)}; {nearest_zone(written)}") from None
    return written


def nearest_zone(word: str) -> str:
    """The hint for a wrong time zone; never the list of all six hundred."""
    close = difflib.get_close_matches(word, zoneinfo.available_timezones(), n=1)
    return f"did you mean {close[0]}?" if close else "write for example America/New_York"


def check_resource_type(written: str) -> str:
    """One of :data:`RESOURCE_TYPES`."""
    if written not in RESOURCE_TYPES:
        raise ValueError(f"no such resource type: {shown(written)}; {nearest(written, RESOURCE_TYPES)}")
    return written


def check_published_type(written: str) -> str:
    """A resource type whose events a sink can get: one of :data:`RESOURCE_TYPES`, or Binary, of which attachments are."""
    return written if written == "Binary" else check_resource_type(written)


def check_action(written: str) -> str:
    """One of the six actions of the contract."""
    if written not in tuple(Action):
        raise ValueError(f"no such action: {shown(written)}; {nearest(written, tuple(Action))}")
    return written


def check_code(written: str) -> str:
    """A practice's code: one word of a routing key, so without dots."""
    if not _CODE.fullmatch(written):
        raise ValueError("not a practice code; write 1 to 32 letters and digits, as in FAMLYMED")
    return written


def check_category(written: str) -> str:
    """The plain code of a category, without its system."""
    if not _CATEGORY.fullmatch(written):
        raise ValueError("not a category; write its plain code without a system, as in laboratory")
    return written


def check_name_prefix(written: str) -> str:
    """The beginning of a patient's name, as a search takes it."""
    if not _NAME.fullmatch(written):
        raise ValueError("not the beginning of a name; write a letter or a few, as in [a, b, c]")
    return written


def check_word(written: str) -> str:
    """The name of a sink, an exchange or a queue."""
    if not _WORD.fullmatch(written) or written.startswith("amq."):
        raise ValueError(
            "not a name; write letters, digits, dots, dashes and underscores, beginning with no amq., as in fhir.changes"
        )
    return written


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only mean this machine: 127.0.0.0/8, ::1, localhost, or a unix socket's path."""
    if host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def split_url(written: str, hint: str) -> SplitResult:
    """The parts of a URL that has a scheme, a host and a sound port; ``hint`` says what would be right."""
    try:
        parts = urlsplit(written)
        sound = bool(parts.scheme and parts.hostname) and parts.port != 0 and not re.search(r"[\s\x00-\x1f]", written)
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"not a URL with a host; {hint}")
    return parts


def check_source_url(written: str) -> str:
    """The base URL of a FHIR server, or its token URL: https, or http on this machine. Without a slash at its end."""
    hint = "write for example https://fhir.example.org/fhir/r4/FAMLYMED"
    parts = split_url(written, hint)
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"neither https nor http; {hint}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"a user, a query or a fragment has no place in this URL; {hint}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("http off this machine shows patients' data to the network; write https://")
    return written.rstrip("/")


def check_store_url(written: str) -> str:
    """``embedded``, or where PostgreSQL is: off this machine only with its certificate verified."""
    hint = "write embedded, or postgresql://user@host/database?sslmode=verify-full"
    if written == EMBEDDED:
        return written
    scheme, _, rest = written.partition("://")
    if scheme not in {"postgresql", "postgresql+psycopg"}:
        raise ValueError(f"not a PostgreSQL URL; {hint}")
    try:
        said = conninfo_to_dict(f"postgresql://{rest}")
    except (ProgrammingError, UnicodeError, ValueError):
        raise ValueError(f"not a URL that PostgreSQL understands; {hint}") from None
    hosts = [host for key in ("host", "hostaddr") for host in str(said.get(key) or "").split(",") if host]
    if not hosts or "service" in said:
        raise ValueError(f"the URL must name its host itself; {hint}, or ?host=/run/postgresql for a socket")
    if not all(map(is_loopback, hosts)) and said.get("sslmode") != "verify-full":
        raise ValueError(
            "PostgreSQL off this machine needs a verified certificate; add ?sslmode=verify-full to the URL"
        )
    return written


OTHER_TRANSPORTS: Final = frozenset(
    {
        *(
            "azureservicebus",
            "azurestoragequeues",
            "confluentkafka",
            "consul",
            "etcd",
            "filesystem",
            "gcpubsub",
            "kafka",
            "mongodb",
            "qpid",
        ),
        *("redis", "rediss", "sqs", "zookeeper"),
    }
)
"""kombu's transports that take a URL and are not tested with the poller."""
_ENCRYPTED: Final = frozenset({"azureservicebus", "azurestoragequeues", "gcpubsub", "rediss", "sqs"})


def check_broker_url(written: str) -> str:
    """``embedded``, or where RabbitMQ is, or another of kombu's brokers: off this machine only over TLS.

    Several RabbitMQs, separated by ``;``, are alternatives.
    """
    hint = "write embedded, or amqps://user@host//"
    if written == EMBEDDED:
        return written
    if (scheme := written.partition(":")[0]) in OTHER_TRANSPORTS:
        return _check_other_url(scheme, written)
    for each in written.split(";"):
        parts = split_url(each, hint)
        if parts.scheme not in {"amqp", "amqps"}:
            raise ValueError(f"neither an AMQP URL nor one of kombu's other transports; {hint}")
        if parts.query or parts.fragment:
            raise ValueError(f"a query has no place in this URL, it could weaken TLS; {hint}")
        if parts.scheme == "amqp" and not is_loopback(parts.hostname or ""):
            raise ValueError("a broker off this machine needs TLS; write amqps://")
    return written


def _check_other_url(scheme: str, written: str) -> str:
    hint = f"write for example {scheme}://127.0.0.1"
    if scheme == "filesystem":
        if not re.fullmatch(r"filesystem:///[^\s?#]+", written):
            raise ValueError("not a directory; write filesystem:///var/spool/poller")
        return written
    if scheme in _ENCRYPTED and written in {f"{scheme}://", f"{scheme}:///"}:
        return written  # where it is, is told to its library
    parts = split_url(written, hint)
    if parts.query or parts.fragment:
        raise ValueError(f"a query has no place in this URL, it could weaken TLS; {hint}")
    if scheme not in _ENCRYPTED and not is_loopback(parts.hostname or ""):
        instead = "write rediss://" if scheme == "redis" else "reach it through a tunnel that ends on this machine"
        raise ValueError(f"a broker off this machine needs TLS; {instead}")
    return written


def split_listen(written: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:9464`` or ``[::1]:9464``."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", written)
    if match is None or not int(match[3]) < 65536:  # noqa: PLR2004 - the end of the ports
        raise ValueError("not a host and port; write for example 127.0.0.1:9464")
    return match[1] or match[2], int(match[3])


def check_listen(written: str) -> str:
    """A host and a port."""
    split_listen(written)
    return written


Duration = Annotated[dt.timedelta, BeforeValidator(parse_duration)]
Retention = Annotated[dt.timedelta, BeforeValidator(parse_retention)]
AuditRetention = Annotated[dt.timedelta, BeforeValidator(parse_audit_retention)]
ResourceType = Annotated[str, AfterValidator(check_resource_type)]
Code = Annotated[str, AfterValidator(check_code)]
Category = Annotated[str, AfterValidator(check_category)]
NamePrefix = Annotated[str, AfterValidator(check_name_prefix)]
Cron = Annotated[str, AfterValidator(check_cron)]
TimeZone = Annotated[str, AfterValidator(check_time_zone)]
Word = Annotated[str, AfterValidator(check_word)]
SourceUrl = Annotated[str, AfterValidator(check_source_url)]
StoreUrl = Annotated[str, AfterValidator(check_store_url)]
BrokerUrl = Annotated[str, AfterValidator(check_broker_url)]
Listen = Annotated[str, AfterValidator(check_listen)]
