"""Certificates: what one says, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from redkeep.crypto.leaf import Leaf, Use
from redkeep.crypto.names import canonical_names, covers
from redkeep.errors import CertificateError

_SERVER = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
USES: dict[Use, tuple[x509.ObjectIdentifier, ...]] = {
    "server": (_SERVER,),
    "client": (_CLIENT,),
    "replication": (_SERVER, _CLIENT),
}
"""The extended key usages each use needs (RFC 5280 section 4.2.1.12)."""


@dataclass(frozen=True)
class CertificateInfo:
    """What a certificate says; nothing of it is secret.

    `names` are the subject alternative names in canonical spelling; `use` is None when the extended key usage
    allows neither servers nor clients; times are UTC; `fingerprint` is the hex SHA-256 of the DER form.
    """

    common_name: str
    issuer: str
    names: tuple[str, ...]
    use: Use | None
    is_authority: bool
    serial: int
    not_before: datetime
    not_after: datetime
    fingerprint: str


def describe(cert_pem: bytes) -> CertificateInfo:
    """Return what the (first) certificate of a PEM says. Raises CertificateError when it is none."""
    certificate = load_certificate(cert_pem)
    return CertificateInfo(
        common_name=common_name(certificate.subject),
        issuer=common_name(certificate.issuer),
        names=_names(certificate),
        use=_use(certificate),
        is_authority=_is_authority(certificate),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def check_leaf(
    leaf: Leaf,
    *,
    trust: Sequence[bytes],
    names: Iterable[str],
    use: Use,
    now: datetime | None = None,
) -> None:
    """Return when `leaf` will serve `names` as `use` for peers that trust `trust`, which are PEM bundles.

    Checked in this order: the key matches the certificate, one of the authorities signed it and is valid
    itself, the dates (`now` is an aware datetime, by default the clock), the names, the extended key usage.
    Redis starts with an expired certificate without a word, so a deploy asks here first.

    Raises CertificateError with one sentence saying what is wrong; ConfigurationError for a malformed name.
    """
    if isinstance(trust, bytes):
        raise CertificateError("trust must be a list of PEM bundles, not one")
    moment = datetime.now(UTC) if now is None else now
    certificate = load_certificate(leaf.cert_pem)
    who = f"the certificate of {common_name(certificate.subject)!r}"
    if load_key(leaf.key_pem).public_key() != certificate.public_key():
        raise CertificateError(f"{who} does not match its private key; issue it again")
    issuer = _find_issuer(certificate, trust)
    if issuer is None:
        raise CertificateError(
            f"{who} was issued by {common_name(certificate.issuer)!r}, which is not a trusted CA"
        )
    _check_dates(issuer, f"the CA {common_name(issuer.subject)!r}", moment)
    _check_dates(certificate, who, moment)
    held = _names(certificate)
    for wanted in canonical_names(names):
        if not covers(held, wanted):
            raise CertificateError(f"{who} is not for {wanted}; it names {', '.join(held) or 'nothing'}")
    allowed = _extended_usage(certificate)
    if any(needed not in allowed for needed in USES[use]):
        raise CertificateError(f"{who} is for use as {_use(certificate) or 'something else'}, not as {use}")


def load_certificate(cert_pem: bytes) -> x509.Certificate:
    """Return the first certificate of a PEM. Raises CertificateError when there is none."""
    try:
        return x509.load_pem_x509_certificate(cert_pem)
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError("this is not a certificate in PEM format") from None


def load_key(key_pem: bytes) -> PrivateKeyTypes:
    """Return an unencrypted private key from PEM. Raises CertificateError when it is none."""
    try:
        return serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError("this is not an unencrypted private key in PEM format") from None


def common_name(name: x509.Name) -> str:
    """Return the common name of a subject or issuer, "" when it has none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _find_issuer(certificate: x509.Certificate, trust: Sequence[bytes]) -> x509.Certificate | None:
    for bundle in trust:
        try:
            authorities = x509.load_pem_x509_certificates(bundle)
        except ValueError:
            raise CertificateError("a trusted CA is not a certificate in PEM format") from None
        for authority in authorities:
            try:
                certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature):
                continue
            if _is_authority(authority):
                return authority
    return None


def _check_dates(certificate: x509.Certificate, who: str, moment: datetime) -> None:
    if moment < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{who} is not yet valid, before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    if moment > certificate.not_valid_after_utc:
        raise CertificateError(
            f"{who} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it"
        )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    held = (name for name in found if isinstance(name, (x509.DNSName, x509.IPAddress)))
    return tuple(str(name.value).lower() for name in held)


def _extended_usage(certificate: x509.Certificate) -> tuple[x509.ObjectIdentifier, ...]:
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ()


def _use(certificate: x509.Certificate) -> Use | None:
    allowed = _extended_usage(certificate)
    if _SERVER in allowed and _CLIENT in allowed:
        return "replication"
    if _SERVER in allowed:
        return "server"
    return "client" if _CLIENT in allowed else None


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
