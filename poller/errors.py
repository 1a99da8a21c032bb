"""Everything that stops a command, each with what is wrong and what would be right. No patient's data in any text."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """What an error is looked up by in the runbook; stands behind its words. Once given, a code keeps its meaning."""

    FAILED = "failed"
    """It could not be done; the words say why."""
    BREACH = "breach"
    """A run was judged, and a promise found broken."""
    DEFECT = "defect"
    """The poller's own mistake."""
    CONFIG_REFUSED = "config-refused"
    """The configuration, or an option, is not right."""
    BAD_INPUT = "bad-input"
    """What a command was given is not what it takes."""
    NOT_FOUND = "not-found"
    """What was named is not there."""
    UNANSWERED = "unanswered"
    """No engine runs, or none answered in time."""
    STORE = "store"
    """The store refused; the words say why."""
    STORE_UNREACHABLE = "store-unreachable"
    """Postgres does not answer, or refuses the login."""
    STORE_ENDED = "store-ended"
    """Postgres ended a command in its middle."""
    STORE_MISSING = "store-missing"
    """There is no embedded store yet."""
    STORE_SCHEMA = "store-schema"
    """The database does not hold this release's schema."""
    STORE_NEWER = "store-newer"
    """The database holds the schema of a newer release."""
    STORE_GRANTS = "store-grants"
    """A role or login lacks a right that it needs."""
    STORE_KEY = "store-key"
    """The digest key is not the one of this database, or none."""
    KEY_MISSING = "key-missing"
    """What a body was encrypted with is not at hand."""
    AUDIT_CLOSED = "audit-closed"
    """The audit cannot be written."""
    LEASE_LOST = "lease-lost"
    """Another poller has taken the practice over."""
    LEASE_TAKEN = "lease-taken"
    """Another poller holds the practice."""
    CURSOR_MOVED = "cursor-moved"
    """A second relay has moved a sink's cursor."""
    OUTPUT = "output"
    """What a command has to say cannot be written."""
    IN_USE = "in-use"
    """What is to be deleted is still in use."""
    BROKER_UNREACHABLE = "broker-unreachable"
    """The broker cannot be reached, or refused."""
    BROKER_FENCED = "broker-fenced"
    """Another relay publishes to the exchange."""


class PollerError(Exception):
    """Base of all errors that a person is meant to read."""

    exit_code = 1
    code: Code = Code.FAILED

    def __init__(self, words: str = "", code: Code | None = None) -> None:
        """``code``: a narrower one than its kind of error has."""
        super().__init__(words)
        if code is not None:
            self.code = code


class ConfigError(PollerError):
    """The configuration was refused. Holds every problem found, one a line."""

    exit_code = 2
    code = Code.CONFIG_REFUSED

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class BadInput(PollerError):  # noqa: N818
    """What a command was given is not what it takes. Does not repeat it: it may name a patient."""

    exit_code = 2
    code = Code.BAD_INPUT


class StoreError(PollerError):
    """Postgres cannot be used as it is."""

    exit_code = 4
    code = Code.STORE


class KeyMissing(StoreError, ValueError):  # noqa: N818 - what happened, as above
    """What a body was sealed with is not at hand: to whoever reads it, it is as one that is damaged."""

    code = Code.KEY_MISSING


class LeaseLost(StoreError):  # noqa: N818 - what happened, in the vocabulary of the design
    """Another poller has taken this practice over; this one must write nothing more for it."""

    code = Code.LEASE_LOST


class LeaseTaken(StoreError):  # noqa: N818
    """Another poller holds this practice."""

    code = Code.LEASE_TAKEN


class BrokerError(PollerError):
    """The broker cannot be reached, or refused what it was asked."""

    exit_code = 5
    code = Code.BROKER_UNREACHABLE


class Fenced(BrokerError):  # noqa: N818
    """Another one publishes to this exchange, and only one may."""

    code = Code.BROKER_FENCED


class NotFound(PollerError):  # noqa: N818
    """What was named is not there."""

    exit_code = 6
    code = Code.NOT_FOUND


class Unanswered(PollerError):  # noqa: N818
    """Nobody was there to do what was asked, or did it in time; or it could not be done."""

    exit_code = 3
    code = Code.UNANSWERED


class OutputError(PollerError):
    """What a command has to say cannot be written."""

    exit_code = 7
    code = Code.OUTPUT


class Breach(PollerError):  # noqa: N818
    """A run was judged and broke a promise."""

    exit_code = 1
    code = Code.BREACH


DEGRADED = 3
"""Exit code of a command that looked, and found something that is not as the configuration asks for."""
