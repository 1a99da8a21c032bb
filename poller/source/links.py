"""Where a link of a Bundle leads. Servers write links with another scheme, host or prefix than they are called by."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit


def follow(link: str, base_path: str, searched: str) -> str | None:
    """The part of a ``next`` link that is asked for below our own base URL, e.g. ``Patient?page=2``; None where it must not be followed.

    ``searched`` is the path of the search below the base: a type, or ``Patient/ID/$everything``. Only the tail of the link's path and its
    query count. A link to another practice (another last segment before that path) or to another search is not followed. A link to the
    base itself with a query is how some servers page (``?_getpages=…``).
    """
    try:
        parts = urlsplit(link)
    except ValueError:
        return None
    base, path = _segments(base_path), _segments(parts.path)
    wanted = _segments(searched)
    if parts.query and not (parts.netloc or path):
        return f"{searched}?{parts.query}"  # relative to the search itself
    is_of_search = [unquote(segment) for segment in path[-len(wanted) :]] == [unquote(segment) for segment in wanted]
    before = path[: -len(wanted)] if is_of_search else path
    is_ours = before[-1:] == base[-1:] or (is_of_search and not before)
    if not is_ours or not (is_of_search or parts.query):
        return None
    tail = searched if is_of_search else ""
    return f"{tail}?{parts.query}" if parts.query else tail


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def names(link: str | None, parameter: str) -> bool:
    """Whether a link's query has this parameter, with or without a modifier."""
    if link is None:
        return False
    try:
        query = urlsplit(link).query
    except ValueError:
        return False
    return any(pair.partition("=")[0].partition(":")[0] == parameter for pair in query.split("&"))


def without(where: str, parameter: str) -> str:
    """A path with query, less this parameter; the rest stays as it was written."""
    path, mark, query = where.partition("?")
    kept = "&".join(pair for pair in query.split("&") if pair.partition("=")[0] != parameter)
    return f"{path}{mark}{kept}" if kept else path
