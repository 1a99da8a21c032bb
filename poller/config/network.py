"""How a practice's server is reached: whom to trust, and by which proxy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cryptography import x509
from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from poller.config.values import split_url

if TYPE_CHECKING:
    from poller.config.secret import Surroundings

NO_PROXY: Final = "none"


def _stands_somewhere(written: object, info: ValidationInfo) -> object:
    """A path; a relative one begins beside the YAML file."""
    if not isinstance(written, str):
        return written
    if not written.strip() or not written.isprintable():
        raise ValueError("not a path; write for example /etc/poller/ca.pem")
    around: Surroundings | None = info.context
    return Path(written) if around is None else around["beside"] / written


def _holds_certificates(path: Path, info: ValidationInfo) -> Path:
    """A file of certificates in PEM; looked at only while a configuration is loaded."""
    if info.context is None:
        return path
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; name the PEM file that holds the CA's certificate") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); make it readable for this user") from None
    except ValueError:
        raise ValueError(
            f"{path} holds no sound certificate in PEM; it should begin with -----BEGIN CERTIFICATE-----"
        ) from None
    return path


def check_proxy(written: str) -> str:
    """``none``, or the URL of an HTTP proxy."""
    hint = "write for example http://proxy.example.org:3128, or none"
    if written == NO_PROXY:
        return written
    parts = split_url(written, hint)
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"neither an http nor an https proxy; {hint}")
    if parts.username is not None:
        raise ValueError("a proxy that wants a user is named in the environment; take it out and set HTTPS_PROXY")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"a path, a query or a fragment has no place in a proxy's URL; {hint}")
    return written.rstrip("/")


CaFile = Annotated[Path, BeforeValidator(_stands_somewhere), AfterValidator(_holds_certificates)]
ProxyUrl = Annotated[str, AfterValidator(check_proxy)]
