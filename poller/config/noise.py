"""Noise rules as they are written: by type, the paths whose content makes no event."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from poller.config.values import check_published_type, nearest, shown
from poller.core.elements import ELEMENTS, META
from poller.core.noise import DECISIVE, parse


def check_noise(noise: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Paths that name elements of their type, sorted and each once. ValueError for the first that does not."""
    return {
        resource_type: tuple(sorted({_checked(resource_type, path) for path in paths}))
        for resource_type, paths in noise.items()
    }


def _checked(resource_type: str, path: str) -> str:
    where = f"{resource_type}: {shown(path)}"
    try:
        (first, _), *below = parse(path)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    known = ELEMENTS.get(resource_type)
    if known is not None and first not in known:
        raise ValueError(f"{where}: {resource_type} has no {shown(first)}; {nearest(first, known)}")
    if first == "meta" and below and below[0][0] not in META:
        raise ValueError(f"{where}: meta has no {shown(below[0][0])}; {nearest(below[0][0], META)}")
    if first in DECISIVE or (resource_type, first) == ("Patient", "link"):
        raise ValueError(
            f"{where}: {first} decides what an event is and can't be noise; leave it out, or name another element"
        )
    return path


Noise = Annotated[
    dict[Annotated[str, AfterValidator(check_published_type)], tuple[str, ...]], AfterValidator(check_noise)
]
