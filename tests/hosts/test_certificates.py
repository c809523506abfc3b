"""The certificates: served and on disk."""

from __future__ import annotations

import datetime
import re
import shlex

import pytest

from .machine import APP_TLS, OPERATOR, Machine

DAY = 86400


def _date(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, "%b %d %H:%M:%S %Y %Z")


def _days(machine: Machine, pem: str) -> float:
    begin, end = re.findall(r"Not (?:Before|After ?): (.*)", machine.x509("-text", pem))
    return (_date(end) - _date(begin)).total_seconds() / DAY


def _names(machine: Machine, pem: str) -> set[str]:
    text = machine.x509("-text", pem)
    return {name.lower() for name in re.findall(r"(?:DNS|IP Address):([^,\s]+)", text)}


def test_served_certificate_is_of_our_ca(redis_host: Machine) -> None:
    """openssl verifies the served certificate as a TLS server's, against our CA alone."""
    pem = shlex.quote(redis_host.served)
    verify = f"openssl verify -x509_strict -no-CApath -no-CAstore -purpose sslserver -CAfile {OPERATOR}/ca.crt"
    assert redis_host.out(f"printf %s {pem} | {verify}").strip() == "stdin: OK"


def test_served_certificate_names_every_address(redis_host: Machine) -> None:
    """The served certificate names each address listened on, localhost, and what the apps call the server."""
    wanted = {"localhost", "127.0.0.1", redis_host.wanted.service.lower(), *redis_host.wanted["tls_names"]}
    wanted |= {address for address in redis_host.bind if address not in ("0.0.0.0", "::")}
    # OpenSSL prints IPv6 addresses as groups of capitals: 0:0:0:0:0:0:0:1.
    found = {re.sub(r"^0:0:0:0:0:0:0:1$", "::1", name) for name in _names(redis_host, redis_host.served)}
    assert wanted <= found


def test_served_certificate_has_no_wildcard_of_its_own(redis_host: Machine) -> None:
    """No wildcard stands in the served certificate, except one that tls_names asks for."""
    asked = {name.lower() for name in redis_host.wanted["tls_names"]}
    assert {name for name in _names(redis_host, redis_host.served) if "*" in name} <= asked


def test_served_certificate_is_for_a_server_only(redis_host: Machine) -> None:
    """Its extended use is serverAuth and nothing more, and it cannot sign certificates."""
    text = redis_host.x509("-text", redis_host.served)
    assert "TLS Web Server Authentication" in text
    assert "Client Authentication" not in text
    assert "CA:FALSE" in text


def test_served_certificate_is_ecdsa_p256(redis_host: Machine) -> None:
    """Key and signature are ECDSA: P-256 with SHA-256."""
    text = redis_host.x509("-text", redis_host.served)
    assert "Public Key Algorithm: id-ecPublicKey" in text
    assert "NIST CURVE: P-256" in text
    assert re.findall(r"Signature Algorithm: (\S+)", text) == ["ecdsa-with-SHA256"] * 2


def test_served_certificate_is_short_lived(redis_host: Machine) -> None:
    """It is valid for less than 90 days."""
    assert _days(redis_host, redis_host.served) < 90


def test_served_certificate_is_the_one_on_disk(redis_host: Machine) -> None:
    """A restart would serve the same certificate: file and running server agree."""
    files = redis_host.config("tls-cert-file")
    configuration = f"{redis_host.folder}/{redis_host.engine}.conf"
    assert f"tls-cert-file {files['tls-cert-file']}\n" in redis_host.read(configuration)
    assert redis_host.served == redis_host.read(files["tls-cert-file"])


def test_only_certificates_in_use_are_kept(redis_host: Machine) -> None:
    """Under tls/ there is one folder: no old private key stays behind."""
    used = redis_host.config("tls-cert-file")["tls-cert-file"].rpartition("/")[0]
    assert redis_host.lines(f"find {redis_host.folder}/tls -mindepth 1 -maxdepth 1") == [used]


def _pairs(machine: Machine) -> list[tuple[str, str]]:
    """(certificate, key) files that belong together on this host."""
    found = []
    if "redis" in machine.wanted.member.groups:
        files = machine.config("tls-cert-file", "tls-key-file")
        found += [(files["tls-cert-file"], files["tls-key-file"]), (f"{OPERATOR}/client.crt", f"{OPERATOR}/client.key")]
    if "app" in machine.wanted.member.groups:
        found.append((f"{APP_TLS}/client.crt", f"{APP_TLS}/client.key"))
    return found


def test_every_key_matches_its_certificate(any_host: Machine) -> None:
    """Each private key on disk is the one of the certificate beside it."""
    for certificate, key in _pairs(any_host):
        script = f"openssl x509 -noout -pubkey -in {certificate} | sha256sum; openssl pkey -pubout -in {key} | sha256sum"
        public, private = any_host.lines(script)
        assert public == private, certificate


def test_no_certificate_expires_soon(any_host: Machine) -> None:
    """No certificate on disk, CA included, expires within tls_alarm_days."""
    seconds = int(any_host.wanted["tls_alarm_days"]) * DAY
    found = any_host.lines(f"find /etc/redkeep {any_host.folder} -name '*.crt' 2>/dev/null || true")
    assert len(found) >= 2
    expiring = any_host.out(
        f"for f in {shlex.join(found)}; do openssl x509 -noout -checkend {seconds} -in $f >/dev/null || echo $f; done"
    )
    assert expiring == ""


def test_client_certificates_are_for_clients_only(any_host: Machine) -> None:
    """The certificates of the operator and the app are good for a client and not for a server: neither can pose as Redis."""
    for certificate, _ in _pairs(any_host):
        if not certificate.endswith("/client.crt"):
            continue
        pem = any_host.read(certificate)
        text = any_host.x509("-text", pem)
        assert "TLS Web Client Authentication" in text
        assert "Server Authentication" not in text
        assert "CA:FALSE" in text
        assert _days(any_host, pem) < 90
        folder = certificate.rpartition("/")[0]
        verify = f"openssl verify -x509_strict -no-CApath -no-CAstore -purpose sslclient -CAfile {folder}/ca.crt {certificate}"
        assert any_host.out(verify).strip() == f"{certificate}: OK"


def test_operator_and_app_have_certificates_of_their_own(any_host: Machine) -> None:
    """No two certificates on the host share a key or a subject."""
    files = [certificate for certificate, _ in _pairs(any_host)]
    script = "openssl x509 -noout -pubkey -in $f | sha256sum; openssl x509 -noout -subject -in $f"
    seen = any_host.lines(f"for f in {shlex.join(files)}; do {script}; done")
    assert len(seen) == len(set(seen)) == 2 * len(files)


def test_key_of_the_ca_is_not_on_the_host(any_host: Machine) -> None:
    """No private key below /etc is the CA's: who takes the host cannot make certificates."""
    roots = any_host.lines("ls /etc/redkeep/*/ca.crt")
    theirs = {any_host.out(f"openssl x509 -noout -pubkey -in {root}") for root in roots}
    keys = any_host.lines("grep -rlsI -D skip -e '-----BEGIN .*PRIVATE KEY-----' /etc | grep -v /etc/ssh/ || true")
    assert keys, "the search finds the keys that are there"
    mine = {key: any_host.run(f"openssl pkey -pubout -in {shlex.quote(key)} -passin pass: 2>/dev/null").stdout for key in keys}
    assert [key for key, public in mine.items() if public in theirs] == []


def test_ca_file_holds_cas_only(any_host: Machine) -> None:
    """Each file of trusted certificates holds CAs that may sign certificates, and nothing else."""
    for file in any_host.lines("ls /etc/redkeep/*/ca.crt"):
        parts = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", any_host.read(file), re.S)
        assert parts
        for pem in parts:
            text = any_host.x509("-text", pem)
            assert "CA:TRUE" in text
            assert "Certificate Sign" in text


@pytest.mark.only(systemd=True)
def test_expiry_is_watched_daily(any_host: Machine) -> None:
    """The timer of the daily check is enabled, active and has a next run; the check itself is content today."""
    shown = any_host.out("systemctl show -p UnitFileState,ActiveState,NextElapseUSecRealtime redkeep-certificates.timer")
    assert "UnitFileState=enabled" in shown
    assert "ActiveState=active" in shown
    assert not re.search(r"NextElapseUSecRealtime=(0|n/a)?$", shown, re.M)
    assert any_host.run("/usr/local/sbin/redkeep-certificates").rc == 0
