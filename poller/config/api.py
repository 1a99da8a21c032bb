"""Where the reading API answers, if at all."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from poller.config.network import CaFile
from poller.config.secret import Secret
from poller.config.section import Section
from poller.config.values import Listen, is_loopback, split_listen


def _stands_in_a_file(key: Secret) -> Secret:
    if key.file is None:
        raise ValueError("the key of a certificate must stand in a file; write {file: path}")
    return key


class ApiConfig(Section):
    """The reading API; off unless it is told where to listen."""

    listen: Listen | None = Field(default=None, examples=["127.0.0.1:9465"])
    certificate: CaFile | None = Field(default=None, examples=["/etc/poller/api.pem"])
    """Of the server, with those that it was signed by."""
    key: Annotated[Secret, AfterValidator(_stands_in_a_file)] | None = Field(
        default=None, examples=["{file: /etc/poller/api.key}"]
    )

    @model_validator(mode="after")
    def _is_encrypted_off_this_machine(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; give both, or neither")
        if self.listen is not None and not is_loopback(split_listen(self.listen)[0]) and self.certificate is None:
            raise ValueError("listen is open to the network; give certificate and key, or write 127.0.0.1:9465")
        return self
