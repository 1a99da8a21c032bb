"""What a case is: a server's ways, and round by round what happens to it and goes wrong. All plain values, so that a case can be kept."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from enum import Enum, auto

from poller.core.model import Strategy


class Named(Enum):
    """Writes itself as it stands in code."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Op(Named):
    """What happens to a practice's resources."""

    CREATE = auto()
    UPDATE = auto()
    TOUCH = auto()
    """Stamp, narrative and order of keys change, nothing else."""
    DELETE = auto()
    RESTORE = auto()
    ERROR = auto()
    MOVE = auto()
    """To another patient."""
    CATEGORY = auto()
    ADMIT = auto()
    """Another patient."""
    RENAME = auto()
    MERGE = auto()
    """A patient is replaced by another, who gets the resources."""
    VANISH = auto()
    """The same, but the replaced one is gone."""
    DISCHARGE = auto()
    """A patient is deleted with all resources."""
    RETURN = auto()
    """A deleted patient is there again."""


class Filter(Named):
    """What the server makes of ``_lastUpdated`` over the whole practice."""

    HONOURED = auto()
    IGNORED = auto()
    ECHOED = auto()
    """Ignored, though the self link names it."""
    REFUSED = auto()
    WITH_PATIENT = auto()
    """Refused without ``patient``."""


class Paging(Named):
    """What a next link holds."""

    OFFSET = auto()
    """A number of rows: what comes and goes meanwhile shifts them."""
    AFTER = auto()
    """The last id shown."""
    KEPT = auto()
    """The ids found at first, shown as they are now."""


class Reads(Named):
    """How single resources can be read."""

    PATH = auto()
    DOTLESS = auto()
    """An id with a dot makes the server fail."""
    SEARCH = auto()
    """By ``_id`` only."""


class Everything(Named):
    """What the server makes of a patient's ``$everything``."""

    OFF = auto()
    WHOLE = auto()
    """``_since`` is ignored."""
    SINCE = auto()


class Fault(Named):
    """What goes wrong with one request."""

    ERROR_500 = auto()
    BUSY_503 = auto()
    """With a ``Retry-After`` longer than a pass waits."""
    THROTTLED_429 = auto()
    UNAUTHORIZED_401 = auto()
    FORBIDDEN_403 = auto()
    REFUSED_400 = auto()
    REDIRECT_302 = auto()
    PROXY_404 = auto()
    """Not found, but said by a web page."""
    SUPPORTED_404 = auto()
    """Not found, since this is not supported."""
    CONNECT = auto()
    CUT_OFF = auto()
    TIMEOUT = auto()
    HTML = auto()
    CUT_JSON = auto()
    EMPTY = auto()
    NO_FHIR = auto()
    OUTCOME = auto()
    """An error with status 200."""
    # What follows spoils a search's answer only.
    OUTCOME_ENTRY = auto()
    """Rows are left out, and an entry says so."""
    WARNING_ENTRY = auto()
    """Nothing is left out."""
    SUBSETTED = auto()
    WRONG_TYPE = auto()
    NO_ID = auto()
    HOLE = auto()
    """A row is left out, and nothing says so."""
    ENDS_EARLY = auto()
    REPEATS = auto()
    """The next page shows this one's last row again."""
    SKIPS = auto()
    """The next page leaves out its first row."""
    CIRCLE = auto()
    ASTRAY = auto()
    TOTAL_HIGH = auto()
    TOTAL_LOW = auto()
    NO_SELF = auto()


OF_SEARCHES = frozenset(fault for fault in Fault if fault.value >= Fault.OUTCOME_ENTRY.value)


class Brief:
    """Writes only what is not as usual."""

    def __repr__(self) -> str:
        usual = {f.name: f.default for f in fields(self) if f.default is not MISSING}  # type: ignore[arg-type]  # a dataclass's base
        said = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # likewise
        shown = {name: _short(value) for name, value in said.items() if name not in usual or value != usual[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"


def _short(value: object) -> str:
    return f"Strategy.{value.name}" if isinstance(value, Strategy) else repr(value)


@dataclass(frozen=True, repr=False)
class Ways(Brief):
    """What a server is like, from the first round to the last."""

    patients: int = 1
    """How many there are at first."""
    resources: int = 1
    """Observations that there are at first."""
    page: int = 50
    paging: Paging = Paging.AFTER
    newest_first: bool = False
    total: bool = False
    """Whether pages tell how many rows there are."""
    filter: Filter = Filter.HONOURED
    conditions: bool = False
    """Whether there are Conditions too, and they are read."""
    bare: bool = True
    """Whether a type can be searched without a patient or a name."""
    several: bool = True
    """Whether ``patient`` takes several."""
    everything: Everything = Everything.SINCE
    date: int | None = 0
    """Seconds by which the server's ``Date`` is ahead; None: it tells none."""
    stamps: int = 0
    """Seconds by which its stamps are ahead, whatever its ``Date`` says."""
    lag: int = 0
    """Seconds from a change's stamp to when it can be seen."""
    stamps_move: bool = True
    gone: int = 404
    empties: bool = False
    """Whether the last patient may go as well."""
    gone_patient: int = 200
    """Status of a search for the resources of a patient who is gone."""
    reads: Reads = Reads.PATH
    elsewhere: bool = False
    """Whether links name another scheme and host."""
    latency: tuple[int, ...] = (0,)
    """Seconds that answers take, in turn."""
    late_answers: bool = False
    """Whether answers show what was when they were asked for; else what is halfway."""
    commit: float = 0.0
    """Seconds that each piece of work with the store takes."""
    in_flight: int = 3


@dataclass(frozen=True, repr=False)
class Change(Brief):
    """One thing that happens; ``which`` picks among those that it can happen to."""

    op: Op
    which: int = 0
    value: int = 0


@dataclass(frozen=True, repr=False)
class Trouble(Brief):
    """A fault of ``count`` requests of a round, the first of them number ``at``, from 0."""

    fault: Fault
    at: int = 0
    count: int = 1


@dataclass(frozen=True, repr=False)
class Round(Brief):
    """Time passes, then whatever is owed is read."""

    wait: int = 4000
    """Seconds. A retry is owed after 1 or more, detection after 600, what stands beside windows after 3600."""
    before: tuple[Change, ...] = ()
    during: tuple[tuple[int, Change], ...] = ()
    """Changes just before the round's request of that number is answered."""
    troubles: tuple[Trouble, ...] = ()
    filter: Filter | None = None
    """What the server makes of ``_lastUpdated`` from now on."""
    adopt: Strategy | None = None
    """The rung by which all but patients are read from now on, whether the server takes it or not."""
    crash: int | None = None
    """The poller dies at the round's request of that number, and begins again."""


@dataclass(frozen=True, repr=False)
class Case(Brief):
    """One course of events."""

    strategy: Strategy | None
    """How all but patients are read at first; None: as a survey finds."""
    ways: Ways = Ways()
    rounds: tuple[Round, ...] = ()
    patients: Strategy | None = Strategy.PATIENT
    """How patients are read at first: PATIENT enumerates them by names."""
    lingers: bool = True
    """Whether there is one reading more in which nothing is left to be found."""


def possible(ways: Ways, also: Strategy) -> tuple[Strategy, ...]:
    """The rungs that such a server takes, the highest first, and this one."""
    windows = ways.filter is Filter.HONOURED
    taken = {
        Strategy.WINDOW: ways.bare and windows,
        Strategy.SWEEP: ways.bare,
        Strategy.EVERYTHING_WINDOW: ways.everything is Everything.SINCE,
        Strategy.PATIENT_WINDOW: windows or ways.filter is Filter.WITH_PATIENT,
        Strategy.EVERYTHING: ways.everything is not Everything.OFF,
        Strategy.PATIENTS: ways.several,
        Strategy.PATIENT: True,
    }
    return tuple(rung for rung in Strategy if taken.get(rung) or rung is also)
