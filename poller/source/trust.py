"""Whom a practice's connections trust, by which proxy they go, and what a failure to connect means."""

from __future__ import annotations

import functools
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx

from poller.config.network import NO_PROXY
from poller.config.values import is_loopback
from poller.core.faults import Mishap

# X509_V_ERR_… of OpenSSL's x509_vfy.h; Python gives them as numbers only.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def context(ca: Path | None) -> ssl.SSLContext:
    """Certificates and host names are always verified: by the system's CAs, and those of ``ca`` beside them. OSError if that is gone."""
    return _context(ca, ca.stat().st_mtime_ns if ca is not None else 0)


@functools.lru_cache(maxsize=64)
def _context(ca: Path | None, _changed: int) -> ssl.SSLContext:
    """One for all practices with the same CAs, since reading the system's takes a tenth of a second."""
    paths = ssl.get_default_verify_paths()
    has_none = paths.cafile is None and (paths.capath is None or not any(Path(paths.capath).iterdir()))
    made = httpx.create_ssl_context() if has_none else ssl.create_default_context()
    if ca is not None:
        made.load_verify_locations(ca)
    return made


def routes(base_url: str, proxy: str | None) -> dict[str, Any]:
    """How httpx is told about proxies: the configured one; none; or as the environment says, except to a server on this machine."""
    if proxy is not None and proxy != NO_PROXY:
        return {"proxy": proxy, "trust_env": False}
    return {"proxy": None, "trust_env": proxy is None and not is_loopback(httpx.URL(base_url).host)}


def mishap_of_connecting(error: BaseException) -> Mishap:
    """Why there is no connection; the cause is somewhere below what httpx raises."""
    seen: BaseException | None = error
    while seen is not None:
        match seen:
            case httpx.ProxyError():
                return Mishap.PROXY
            case ssl.SSLCertVerificationError():
                return _distrust(seen)
            case ssl.SSLError():
                return Mishap.NO_TLS
            case socket.gaierror():
                return Mishap.NO_ADDRESS
        seen = seen.__cause__ or seen.__context__
    return Mishap.CONNECT


def _distrust(error: ssl.SSLCertVerificationError) -> Mishap:
    match error.verify_code:
        case code if code in {_OTHER_NAME, _OTHER_ADDRESS}:
            return Mishap.OTHER_HOST
        case code if code in {_NOT_YET_VALID, _EXPIRED}:
            return Mishap.EXPIRED
        case _:
            return Mishap.UNTRUSTED
