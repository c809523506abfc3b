"""The certificate authority: it is created, and issues leaves.

    leaf = Authority.create("Redkeep").issue(["redis.internal", "10.0.0.5"], use="server")

Everything is ECDSA on P-256 with SHA-256 (RFC 5480; Mozilla's modern profile). The authority's key stays with
the operator; hosts receive leaves only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from redkeep.crypto.certificate import (
    USES,
    CertificateInfo,
    check_leaf,
    common_name,
    describe,
    load_certificate,
    load_key,
)
from redkeep.crypto.leaf import Leaf, Use
from redkeep.crypto.names import canonical_names, is_address
from redkeep.errors import CertificateError, ConfigurationError

__all__ = ["Authority", "CertificateInfo", "Leaf", "Use", "check_leaf", "describe"]

AUTHORITY_DAYS = 3650
"""Ten years: an authority is replaced on purpose (a new one beside the old), not by a surprise."""

LEAF_DAYS = 89
"""Under 90 days, so that renewal is a habit (Let's Encrypt's lifetime)."""

MAX_LEAF_DAYS = 89
BACKDATED = timedelta(minutes=5)
"""Hosts' clocks may be behind the operator's."""

_MAX_COMMON_NAME = 64  # ub-common-name, RFC 5280 appendix A.1


@dataclass(frozen=True)
class Authority:
    """A certificate authority that signs leaves and nothing else; its key is not shown."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    @classmethod
    def create(
        cls, common_name: str, *, days: int = AUTHORITY_DAYS, now: datetime | None = None
    ) -> Authority:
        """Make a self-signed authority that holds for `days` from `now` (aware; by default the clock).

        It may sign leaves but no further authority (path length 0).

        Raises ConfigurationError for a common name not of 1 to 64 characters, or days below 1.
        """
        if days < 1:
            raise ConfigurationError("a CA must be valid for at least one day")
        begins, moment = _validity(now)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(common_name)
        usage = _key_usage(signs_certificates=True)
        certificate = (
            _builder(subject, key.public_key(), begins, moment + timedelta(days=days))
            .issuer_name(subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(certificate), _key_pem(key))

    @classmethod
    def from_pem(cls, cert_pem: bytes, key_pem: bytes) -> Authority:
        """Take up an authority made before.

        Raises CertificateError when it is not one, or the key is not its own.
        """
        certificate, key = load_certificate(cert_pem), load_key(key_pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CertificateError("the CA's key is not an elliptic-curve key")
        if key.public_key() != certificate.public_key():
            raise CertificateError(
                f"the CA {common_name(certificate.subject)!r} does not match its private key"
            )
        if not describe(cert_pem).is_authority:
            raise CertificateError(f"the certificate of {common_name(certificate.subject)!r} is not a CA certificate")
        return cls(cert_pem, key_pem)

    def issue(
        self,
        names: Sequence[str],
        *,
        use: Use,
        days: int = LEAF_DAYS,
        common_name: str | None = None,
        now: datetime | None = None,
    ) -> Leaf:
        """Issue a leaf for `names`: DNS names, wildcards, IP addresses; each becomes the right kind of SAN.

        It holds from five minutes before `now` (aware; by default the clock) for `days`, at most 89, never
        longer than the authority itself. The common name is the first name unless given. Servers and
        replication need a name; a client may have a common name only.

        Raises ConfigurationError for a malformed name, use, or number of days; CertificateError when the
        authority is not valid at `now`.
        """
        if use not in USES:
            raise ConfigurationError(f"use must be one of {', '.join(USES)}")
        if not 1 <= days <= MAX_LEAF_DAYS:
            raise ConfigurationError(f"a leaf may be valid for 1 to {MAX_LEAF_DAYS} days, not {days}")
        wanted = canonical_names(names)
        if not wanted and (use != "client" or not common_name):
            raise ConfigurationError(f"a {use} certificate needs a name")
        begins, moment = _validity(now)
        issuer, issuer_key = load_certificate(self.cert_pem), load_key(self.key_pem)
        if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
            raise CertificateError("the CA's key is not an elliptic-curve key")
        if not issuer.not_valid_before_utc <= moment < issuer.not_valid_after_utc:
            raise CertificateError(
                "the CA is not valid now; make a new one with `redkeep certs new-ca`"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(moment + timedelta(days=days), issuer.not_valid_after_utc)
        default = next((name for name in wanted if len(name) <= _MAX_COMMON_NAME), "redkeep")
        builder = (
            _builder(
                _subject(common_name or default),
                key.public_key(),
                max(begins, issuer.not_valid_before_utc),
                ends,
            )
            .issuer_name(issuer.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(USES[use]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
                ),
                critical=False,
            )
        )
        if wanted:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(map(_general_name, wanted)), critical=False
            )
        return Leaf(_pem(builder.sign(issuer_key, hashes.SHA256())), _key_pem(key))


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _validity(now: datetime | None) -> tuple[datetime, datetime]:
    moment = datetime.now(UTC) if now is None else now
    if moment.tzinfo is None:
        raise ConfigurationError("now must be a datetime with a time zone")
    moment = moment.astimezone(UTC).replace(microsecond=0)
    return moment - BACKDATED, moment


def _subject(common_name: str) -> x509.Name:
    if not 1 <= len(common_name) <= _MAX_COMMON_NAME or not common_name.isprintable():
        raise ConfigurationError(f"a common name must be 1 to {_MAX_COMMON_NAME} printable characters")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
