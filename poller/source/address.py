"""Where a URL that a server gave (a job's status, a file) is asked for, and whether our token goes along.

Servers write URLs with another scheme or host than they are called by. So the path decides: what is below our base path is asked for at our
own scheme and host, with the token. The token is never sent to another host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from poller.config.values import is_loopback

_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f\\]|(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
"""What could make a path lead elsewhere than it seems to: spaces, controls, backslashes, ``.`` and ``..``."""


@dataclass(frozen=True, slots=True)
class Address:
    """A URL that may be asked for. It may name a job or a patient, so it shows in no representation."""

    url: str = field(repr=False)
    is_ours: bool
    """Whether it is below our base URL. The token is sent there and nowhere else."""


def locate(url: str, base_url: str, *, needs_token: bool = True) -> Address | None:
    """Where ``url`` (absolute, or relative to the base) is asked for; None where it must not be.

    What is not below our base path is asked for only where the server said that no token is needed, and over TLS: a store of files.
    """
    try:
        found, base = urlsplit(urljoin(f"{base_url}/", url)), urlsplit(base_url)
        host = found.hostname or ""
        is_plain = found.username is None and found.port != 0
    except ValueError:
        return None
    if not url or not host or not is_plain or found.scheme not in {"http", "https"} or _UNSAFE.search(found.path):
        return None
    query = f"?{found.query}" if found.query else ""
    if found.path.startswith(f"{base.path.rstrip('/')}/"):
        return Address(f"{base.scheme}://{base.netloc}{found.path}{query}", is_ours=True)
    is_safe = found.scheme == "https" or (is_loopback(host) and is_loopback(base.hostname or ""))
    return (
        Address(f"{found.scheme}://{found.netloc}{found.path}{query}", is_ours=False)
        if is_safe and not needs_token
        else None
    )
