"""Certificates: issued right, checked right, and accepted by a real TLS stack."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from redkeep.crypto.names import canonical_name, covers
from redkeep.crypto.pki import Authority, Leaf, Use, check_leaf, describe
from redkeep.errors import CertificateError, ConfigurationError
from tests.unit.needs import needs

CA = Authority.create("Test CA")
OTHER = Authority.create("Other CA")
NAMES = ["redis-1.internal", "*.cache.internal", "10.0.0.5", "fd00::5"]
SERVER = CA.issue(NAMES, use="server")
CLIENT = CA.issue([], use="client", common_name="cache_service")
NODE = CA.issue(["localhost", "127.0.0.1"], use="replication")


def parsed(leaf: Leaf | Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(leaf.cert_pem)


def test_authority_signs_leaves_and_nothing_else() -> None:
    """The authority is a CA with path length 0, may sign certificates only, and holds ten years."""
    cert = parsed(CA)
    basic = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage)
    assert (True, True, 0) == (basic.critical, basic.value.ca, basic.value.path_length)
    assert (True, True, True, False) == (
        usage.critical,
        usage.value.key_cert_sign,
        usage.value.crl_sign,
        usage.value.digital_signature,
    )
    assert timedelta(days=3650, minutes=5) == cert.not_valid_after_utc - cert.not_valid_before_utc
    cert.verify_directly_issued_by(cert)


def test_leaf_form() -> None:
    """A leaf is P-256 with SHA-256, no CA, signs only, and carries its own and its issuer's key id."""
    cert = parsed(SERVER)
    key = cert.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert "secp256r1" == key.curve.name
    assert isinstance(cert.signature_hash_algorithm, hashes.SHA256)
    basic = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage)
    assert (True, False) == (basic.critical, basic.value.ca)
    assert (True, True, False) == (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign)
    issuer = parsed(CA).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.digest == authority.key_identifier
    assert issuer != cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    cert.verify_directly_issued_by(parsed(CA))


def test_names_become_the_right_kind() -> None:
    """DNS names and wildcards become DNS names, IPv4 and IPv6 addresses become addresses."""
    san = parsed(SERVER).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ["redis-1.internal", "*.cache.internal"] == san.get_values_for_type(x509.DNSName)
    addresses = [ipaddress.ip_address("10.0.0.5"), ipaddress.ip_address("fd00::5")]
    assert addresses == san.get_values_for_type(x509.IPAddress)


@pytest.mark.parametrize(
    ("leaf", "usages"),
    [
        (SERVER, {ExtendedKeyUsageOID.SERVER_AUTH}),
        (CLIENT, {ExtendedKeyUsageOID.CLIENT_AUTH}),
        (NODE, {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
    ],
)
def test_each_use_allows_no_more(leaf: Leaf, usages: set[x509.ObjectIdentifier]) -> None:
    """A server may serve, a client may connect, a replication node may do both: exactly that."""
    assert usages == set(parsed(leaf).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_leaf_lives_89_days_from_five_minutes_ago() -> None:
    """A leaf begins five minutes before it is made and ends after 89 days: under 90 in all."""
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    leaf = CA.issue(["a"], use="server", now=moment)
    assert moment - timedelta(minutes=5) == leaf.not_before
    assert moment + timedelta(days=89) == leaf.not_after
    assert leaf.not_after - leaf.not_before < timedelta(days=90)


def test_leaf_never_outlives_its_authority() -> None:
    """A leaf ends with its authority at the latest, and an ended authority issues nothing."""
    short = Authority.create("Short", days=10)
    assert describe(short.cert_pem).not_after == short.issue(["a"], use="server").not_after
    with pytest.raises(CertificateError, match="new-ca"):
        short.issue(["a"], use="server", now=datetime.now(UTC) + timedelta(days=11))


def test_serials_are_random() -> None:
    """A hundred leaves have a hundred serials of more than 64 bits (CA/Browser baseline, 7.1)."""
    serials = {describe(CA.issue(["a"], use="server").cert_pem).serial for _ in range(100)}
    assert 100 == len(serials)
    assert min(serials).bit_length() > 64


def test_leaf_properties() -> None:
    """A leaf tells its names, use, dates, common name and fingerprint; its repr hides the key."""
    assert tuple(NAMES) == SERVER.names
    assert ("server", "client", "replication") == (SERVER.use, CLIENT.use, NODE.use)
    assert ("redis-1.internal", "cache_service") == (SERVER.common_name, CLIENT.common_name)
    assert () == CLIENT.names
    assert parsed(SERVER).fingerprint(hashes.SHA256()).hex() == SERVER.fingerprint
    assert UTC == SERVER.not_after.tzinfo
    for shown in (repr(SERVER), repr(CA)):
        assert "PRIVATE KEY" not in shown
    with pytest.raises(AttributeError):
        SERVER.cert_pem = b""  # type: ignore[misc]


def test_authority_survives_its_pem() -> None:
    """An authority taken up from PEM issues leaves that the first one's certificate vouches for."""
    again = Authority.from_pem(CA.cert_pem, CA.key_pem)
    check_leaf(again.issue(["a"], use="server"), trust=[CA.cert_pem], names=["a"], use="server")


def test_authority_from_the_wrong_pem() -> None:
    """A leaf, a foreign key and plain noise are no authority."""
    for cert, key in [(SERVER.cert_pem, SERVER.key_pem), (CA.cert_pem, OTHER.key_pem), (b"x", CA.key_pem)]:
        with pytest.raises(CertificateError):
            Authority.from_pem(cert, key)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            "a b",
            "a\nb",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "*",
            "*.com",
            "a.*.b",
            "**.a.b",
            "300.1.1.1",
        ),
        *("x" * 64, ".".join(["x" * 60] * 5), "b\u00fccher.de", "fe80::1%eth0", "http://a", "a:6379", "a/b"),
    ],
)
def test_malformed_names(name: str) -> None:
    """What is no DNS name, wildcard or address is refused before anything is signed."""
    with pytest.raises(ConfigurationError):
        CA.issue([name], use="server")


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("Redis.Internal", "redis.internal"),
        ("[FD00:0::5]", "fd00::5"),
        ("10.0.0.5", "10.0.0.5"),
        ("redis_primary", "redis_primary"),
        ("*.A.b", "*.a.b"),
        ("xn--bcher-kva.de", "xn--bcher-kva.de"),
    ],
)
def test_names_have_one_spelling(spelling: str, canonical: str) -> None:
    """Case, brackets and zeros of an address do not make another name."""
    assert canonical == canonical_name(spelling)
    assert (canonical,) == CA.issue([spelling, canonical], use="server").names


def test_wildcards_cover_one_label() -> None:
    """A wildcard covers one label, not two, not none, and never an address."""
    held = ("*.cache.internal",)
    assert covers(held, "a.cache.internal")
    for other in ("cache.internal", "a.b.cache.internal", "*.b.cache.internal", "10.0.0.5"):
        assert not covers(held, other)
    assert not covers(("*.0.0.5",), "10.0.0.5")


def test_misuse_is_refused() -> None:
    """Ninety days, no days, another use, no name, a string for a list, a naive date: each is refused."""
    for arguments in (
        {"names": ["a"], "use": "server", "days": 90},
        {"names": ["a"], "use": "server", "days": 0},
        {"names": ["a"], "use": "code"},
        {"names": [], "use": "server", "common_name": "a"},
        {"names": [], "use": "client"},
        {"names": "redis", "use": "server"},
        {"names": ["a"], "use": "server", "common_name": "x" * 65},
        {"names": ["a"], "use": "server", "common_name": "x\ny"},
        {"names": ["a"], "use": "server", "now": datetime(2030, 1, 1)},
    ):
        with pytest.raises(ConfigurationError):
            CA.issue(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        Authority.create("x", days=0)


def test_good_leaf_passes() -> None:
    """A leaf passes for its names and use; a replication leaf passes as server and as client too."""
    check_leaf(SERVER, trust=[OTHER.cert_pem + CA.cert_pem], names=["a.cache.internal", *NAMES], use="server")
    check_leaf(CLIENT, trust=[OTHER.cert_pem, CA.cert_pem], names=[], use="client")
    for use in ("server", "client", "replication"):
        check_leaf(NODE, trust=[CA.cert_pem], names=["localhost"], use=use)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("leaf", "trust", "names", "use", "days", "reason"),
    [
        (SERVER, CA, NAMES, "server", 90, "expired on"),
        (SERVER, CA, NAMES, "server", -1, "not yet valid"),
        (SERVER, OTHER, NAMES, "server", 0, "not a trusted CA"),
        (SERVER, CA, ["redis-2.internal"], "server", 0, "is not for redis-2.internal"),
        (SERVER, CA, ["10.0.0.6"], "server", 0, "is not for 10.0.0.6"),
        (SERVER, CA, NAMES, "replication", 0, "as server, not as replication"),
        (SERVER, CA, NAMES, "client", 0, "as server, not as client"),
        (CLIENT, CA, [], "server", 0, "as client, not as server"),
        (Leaf(SERVER.cert_pem, NODE.key_pem), CA, NAMES, "server", 0, "does not match its private key"),
        (Leaf(b"noise", NODE.key_pem), CA, NAMES, "server", 0, "not a certificate"),
        (Leaf(SERVER.cert_pem, b"noise"), CA, NAMES, "server", 0, "not an unencrypted private key"),
    ],
)
def test_bad_leaves(leaf: Leaf, trust: Authority, names: list[str], use: Use, days: int, reason: str) -> None:
    """Each way a leaf can be unfit gives one sentence that says so."""
    with pytest.raises(CertificateError, match=reason):
        check_leaf(
            leaf, trust=[trust.cert_pem], names=names, use=use, now=datetime.now(UTC) + timedelta(days=days)
        )


def test_leaf_of_an_ended_authority() -> None:
    """A leaf whose authority has ended is refused in the authority's name."""
    old = Authority.create("Old", days=20, now=datetime.now(UTC) - timedelta(days=30))
    leaf = old.issue(["a"], use="server", now=datetime.now(UTC) - timedelta(days=25))
    with pytest.raises(CertificateError, match="CA 'Old' expired"):
        check_leaf(leaf, trust=[old.cert_pem], names=["a"], use="server")


def test_forged_authority_of_the_same_name() -> None:
    """An authority with the same name and another key vouches for nothing; a leaf is no authority."""
    with pytest.raises(CertificateError, match="not a trusted CA"):
        check_leaf(SERVER, trust=[Authority.create("Test CA").cert_pem], names=NAMES, use="server")
    key = serialization.load_pem_private_key(NODE.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    forged = (
        x509.CertificateBuilder()
        .subject_name(parsed(NODE).subject)
        .issuer_name(parsed(NODE).subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NODE.not_before)
        .not_valid_after(NODE.not_after)
        .sign(key, hashes.SHA256())
    )
    leaf = Leaf(forged.public_bytes(serialization.Encoding.PEM), NODE.key_pem)
    with pytest.raises(CertificateError, match="not a trusted CA"):
        check_leaf(leaf, trust=[NODE.cert_pem], names=[], use="server")


def context(tmp_path: Path, leaf: Leaf | None, *, trust: Authority, server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    made.load_verify_locations(cadata=trust.cert_pem.decode())
    if leaf:
        chain = tmp_path / "chain.pem"
        chain.write_bytes(leaf.key_pem + leaf.cert_pem)
        made.load_cert_chain(chain)
    return made


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    """Shake hands in memory and pass one byte each way; returns the TLS version."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = server.wrap_bio(to_server, to_client, server_side=True)
    right = client.wrap_bio(to_client, to_server, server_hostname=name)
    for side in (right, left, right, left):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    left.write(b"s")
    right.write(b"c")
    assert (b"c", b"s") == (left.read(1), right.read(1))
    return right.version()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_mutual_tls_handshake(tmp_path: Path, name: str) -> None:
    """OpenSSL shakes hands, both sides verifying, by name and by address, strictly."""
    server = context(tmp_path, NODE, trust=CA, server=True)
    assert "TLSv1.3" == handshake(server, context(tmp_path, CLIENT, trust=CA, server=False), name)
    assert "TLSv1.3" == handshake(server, context(tmp_path, NODE, trust=CA, server=False), name)


def test_mutual_tls_refusals(tmp_path: Path) -> None:
    """OpenSSL refuses a wrong authority on either side, a wrong name or use, and no certificate at all."""
    stranger = OTHER.issue(["localhost"], use="replication")
    expired = CA.issue(["localhost"], use="replication", days=1, now=datetime.now(UTC) + timedelta(days=5))
    only_server = CA.issue(["localhost"], use="server")
    cases = [
        (stranger, CLIENT, "localhost"),
        (NODE, stranger, "localhost"),
        (NODE, CLIENT, "redis.internal"),
        (NODE, CLIENT, "127.0.0.2"),
        (CLIENT, CLIENT, "localhost"),
        (NODE, only_server, "localhost"),
        (NODE, None, "localhost"),
        (expired, CLIENT, "localhost"),
        (NODE, expired, "localhost"),
    ]
    for server, client, name in cases:
        with pytest.raises(ssl.SSLError):
            handshake(
                context(tmp_path, server, trust=CA, server=True),
                context(tmp_path, client, trust=CA, server=False),
                name,
            )


@needs("openssl")
def test_openssl_command_agrees(tmp_path: Path) -> None:
    """The openssl command verifies each leaf for its purpose, strictly, and not for another."""
    (tmp_path / "ca").write_bytes(CA.cert_pem)
    cases = [(SERVER, "sslserver", True), (SERVER, "sslclient", False), (CLIENT, "sslclient", True)]
    cases += [(CLIENT, "sslserver", False), (NODE, "sslserver", True), (NODE, "sslclient", True)]
    for leaf, purpose, good in cases:
        (tmp_path / "leaf").write_bytes(leaf.cert_pem)
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca", "leaf"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert good == (ran.returncode == 0), ran.stderr
