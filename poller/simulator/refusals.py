"""The refusals of a FHIR facade, in the words that were recorded where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poller.simulator.spec import PracticeSpec


class Refused(Exception):  # noqa: N818 - an answer of the protocol, not a failure of ours
    """The request is answered with an OperationOutcome."""

    def __init__(self, status: int, diagnostics: str, code: str = "processing") -> None:
        self.status = status
        self.diagnostics = diagnostics
        self.code = code
        super().__init__(code)


def unsupported(spec: PracticeSpec, names: Sequence[str], unknown: Sequence[str]) -> Refused:
    """What is said to parameters (``unknown`` among ``names``) that are not taken, by the practice's mode and wording."""
    if spec.mode == "open":
        return Refused(400, f"Unknown search parameter '{unknown[0]}'", "not-supported")
    if spec.wording == "2026" and unknown:
        listed = ", ".join(unknown)
        return Refused(400, f"Unsupported query parameter(s): {listed}. These parameters are not allowed.")
    asked = ",".join(names)
    return Refused(400, f"Invalid request: Does not know how to handle get operation with parameter [{asked}]")


def too_old(spec: PracticeSpec) -> Refused:
    """What an old build says to a type that it does not have."""
    words = "The operation is not supported for the scope"
    return Refused(400, words) if spec.wording == "2024" else Refused(403, words, "forbidden")
