"""A leaf: one certificate with its private key, as issued by our authority."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from redkeep.errors import CertificateError

if TYPE_CHECKING:
    from redkeep.crypto.certificate import CertificateInfo

Use = Literal["server", "client", "replication"]
"""What a leaf proves: a server, a client, or a node that is both (replicas and Sentinels dial each other)."""


@dataclass(frozen=True)
class Leaf:
    """A certificate and its private key, both PEM; the key is not shown.

    The certificate is parsed when a property first asks for it, so that holding a leaf costs nothing.
    The properties raise CertificateError when it is not a certificate.
    """

    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    @cached_property
    def info(self) -> CertificateInfo:
        """Everything the certificate says."""
        from redkeep.crypto.certificate import describe

        return describe(self.cert_pem)

    @property
    def common_name(self) -> str:
        """The subject's common name; "" when it has none."""
        return self.info.common_name

    @property
    def names(self) -> tuple[str, ...]:
        """Subject alternative names in canonical spelling, DNS names and addresses, in the order issued."""
        return self.info.names

    @property
    def use(self) -> Use:
        """What the extended key usage allows."""
        if self.info.use is None:
            raise CertificateError(
                f"the certificate of {self.common_name!r} is valid for neither servers nor clients"
            )
        return self.info.use

    @property
    def not_before(self) -> datetime:
        """When it begins to hold, UTC."""
        return self.info.not_before

    @property
    def not_after(self) -> datetime:
        """When it ceases to hold, UTC."""
        return self.info.not_after

    @property
    def fingerprint(self) -> str:
        """Lower hex SHA-256 of the DER certificate, 64 characters."""
        return self.info.fingerprint
