"""Everything that stops a command, each with what is wrong and what would be right. No patient's data in any text."""

from __future__ import annotations


class PollerError(Exception):
    """Base of all errors that a person is meant to read."""

    exit_code = 1


class ConfigError(PollerError):
    """The configuration was refused. Holds every problem found, one a line."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class BadInput(PollerError):  # noqa: N818
    """What a command was given is not what it takes. Does not repeat it: it may name a patient."""

    exit_code = 2


class StoreError(PollerError):
    """Postgres cannot be used as it is."""

    exit_code = 4


class LeaseLost(StoreError):  # noqa: N818 - what happened, in the vocabulary of the design
    """Another poller has taken this practice over; this one must write nothing more for it."""


class LeaseTaken(StoreError):  # noqa: N818
    """Another poller holds this practice."""


class BrokerError(PollerError):
    """The broker cannot be reached, or refused what it was asked."""

    exit_code = 5


class Fenced(BrokerError):  # noqa: N818
    """Another one publishes to this exchange, and only one may."""


class NotFound(PollerError):  # noqa: N818
    """What was named is not there."""

    exit_code = 6


class Unanswered(PollerError):  # noqa: N818
    """Nobody was there to do what was asked, or did it in time; or it could not be done."""

    exit_code = 3


class OutputError(PollerError):
    """What a command has to say cannot be written."""

    exit_code = 7


class Breach(PollerError):  # noqa: N818
    """A run was judged and broke a promise."""

    exit_code = 1


DEGRADED = 3
"""Exit code of a command that looked, and found something that is not as the configuration asks for."""
