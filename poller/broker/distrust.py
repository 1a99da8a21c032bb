"""Why a broker is not spoken to over TLS, and what would be right."""

from __future__ import annotations

import ssl

_OTHER_HOST = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL, which Python gives as numbers only."""


def why_no_tls(error: Exception) -> str | None:
    """None where it is not for TLS."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_HOST:
            return "the broker's certificate is for another host than broker.url names; name it as the certificate does"
        case ssl.SSLCertVerificationError():
            return f"the broker's certificate is not to be trusted ({error.verify_message}); see broker.ca"
        case ssl.SSLError():
            return f"there is no TLS where broker.url says amqps, or none in common ({error.reason}); name the port of its TLS listener"
        case _:
            return None
