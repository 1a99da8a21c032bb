"""Looks for what must not stand in a database: through every column of every table of ours, compressed or not."""

from __future__ import annotations

from collections.abc import Collection

import psycopg

from poller.core.canonical import CODEC_ZLIB, body_text


def _told(value: object) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return body_text(CODEC_ZLIB, value).decode()
    except ValueError:
        return value.decode("latin-1")


def marked(admin: psycopg.Connection, markers: Collection[str]) -> set[str]:
    """The columns that hold one of the markers, as ``table.column``."""
    wanted = [form for marker in markers for form in (marker, marker.encode().hex())]
    columns = admin.execute(
        "SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'poller'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        " AND a.attnum > 0 AND NOT a.attisdropped"
    ).fetchall()
    if len(columns) < 200:
        raise AssertionError("these are not all of our columns")
    return {
        f"{table}.{column}"
        for table, column in columns
        for (value,) in admin.execute(f'SELECT "{column}" FROM poller."{table}"')  # noqa: S608
        if any(form in _told(value) for form in wanted)
    }
