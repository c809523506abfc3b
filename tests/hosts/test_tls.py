"""The TLS door: who gets through, and how."""

from __future__ import annotations

import re

import pytest

from .machine import OPERATOR, Machine

VERSIONS = {"1.0": "-tls1", "1.1": "-tls1_1", "1.2": "-tls1_2", "1.3": "-tls1_3"}
# What a refused client's openssl says; the server's alert is lost when its end of the connection is gone too soon.
RESET = r"errno=(104|32)|Connection reset|Broken pipe"
PING = "PING\\r\\nQUIT\\r\\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_wanted_protocol_versions_are_spoken(redis_host: Machine, version: str) -> None:
    """A version below tls_minimum_version is refused by the server's alert, every other is accepted."""
    old = "-cipher ALL:@SECLEVEL=0" if version in ("1.0", "1.1") else ""
    said = redis_host.s_client(f"{VERSIONS[version]} {old}")
    if version < redis_host.wanted["tls_minimum_version"]:
        assert "alert protocol version" in said
        assert "Cipher is (NONE)" in said
    else:
        assert f"New, TLSv{version}, Cipher is " in said


@pytest.mark.only(client_certificates="required")
def test_no_word_without_a_client_certificate(redis_host: Machine) -> None:
    """A client without a certificate is sent away with an alert and gets no byte of an answer."""
    said = redis_host.s_client(identity=False, words=PING)
    assert refused(said, "certificate required", "handshake failure"), said


@pytest.mark.only(client_certificates="optional")
def test_password_decides_without_a_client_certificate(redis_host: Machine) -> None:
    """With optional client certificates a client without one gets through the door and no further."""
    assert "NOAUTH" in redis_host.s_client(identity=False, words=PING)


def refused(said: str, *alerts: str) -> bool:
    """Whether the server ended the connection, by one of these alerts, and Redis wrote not one word."""
    ended = re.search(f"alert ({'|'.join(alerts)})|{RESET}", said)
    return bool(ended) and not re.search(r"PONG|NOAUTH|ERR ", said)


def _with_certificate(machine: Machine, make: str, words: str = PING) -> str:
    """What the server says to a client with the certificate c.crt and key c.key that ``make`` puts into a folder.

    The folder is on the host, for this one command.
    """
    return str(
        machine.run(f"""set -e; t=$(mktemp -d); trap 'rm -rf "$t"' EXIT HUP INT TERM; cd "$t"
export OPENSSL_CONF=/dev/null
{{ {make}
}} >/dev/null 2>&1
(sleep 0.1; printf '{words}') | timeout 5 openssl s_client -connect {machine.door} -CAfile {OPERATOR}/ca.crt \\
-cert c.crt -key c.key -quiet 2>&1 || true""").stdout
    )


_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out"


def test_certificate_of_a_foreign_ca_is_refused(redis_host: Machine) -> None:
    """A certificate with the operator's own subject, signed by a CA that is not ours, does not open the door."""
    subject = redis_host.out(f"openssl x509 -noout -subject -nameopt multiline -in {OPERATOR}/client.crt")
    name = subject.rpartition("=")[2].strip().replace("/", r"\/")
    said = _with_certificate(
        redis_host,
        f"""{_KEY} ca.key; {_KEY} c.key
        openssl req -new -x509 -key ca.key -subj '/CN=Foreign' -days 2 -out ca.crt -addext basicConstraints=critical,CA:TRUE
        openssl req -new -key c.key -subj '/CN={name}' -out c.csr
        openssl x509 -req -in c.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -out c.crt""",
    )
    assert refused(said, "unknown ca", "bad certificate", "decrypt error"), said


def test_self_signed_certificate_is_refused(redis_host: Machine) -> None:
    """A client that signed its certificate itself does not get through."""
    said = _with_certificate(redis_host, f"{_KEY} c.key; openssl req -new -x509 -key c.key -subj /CN=self -days 2 -out c.crt")
    assert refused(said, "unknown ca", "bad certificate", "decrypt error"), said


def test_certificate_signed_by_a_client_is_refused(redis_host: Machine) -> None:
    """A client's certificate is no CA: what it signs opens no door."""
    said = _with_certificate(
        redis_host,
        f"""{_KEY} c.key; openssl req -new -key c.key -subj /CN=child -out c.csr
        openssl x509 -req -in c.csr -CA {OPERATOR}/client.crt -CAkey {OPERATOR}/client.key -set_serial 1 -days 1 -out child.crt
        cat child.crt {OPERATOR}/client.crt > c.crt""",
    )
    assert refused(said, "unknown ca", "bad certificate", "decrypt error"), said


def test_servers_own_certificate_is_no_client(redis_host: Machine) -> None:
    """The server's certificate is for a server: whoever steals it cannot log in as a client with it."""
    files = redis_host.config("tls-cert-file", "tls-key-file")
    said = _with_certificate(redis_host, f"cp {files['tls-cert-file']} c.crt; cp {files['tls-key-file']} c.key")
    assert refused(said, "unsupported certificate", "bad certificate"), said


def test_certificate_of_ours_gets_through(redis_host: Machine) -> None:
    """The operator's certificate opens the door, and behind it a login is still demanded: the refusals above mean something."""
    assert "NOAUTH" in redis_host.s_client(words=PING)


def test_plaintext_gets_no_answer(redis_host: Machine) -> None:
    """Plain Redis commands sent to the TLS port get not one byte that Redis wrote."""
    address, _, port = redis_host.door.rpartition(":")
    program = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 2); s.settimeout(1); "
        "s.sendall(b'PING\\r\\nINFO\\r\\n'); d = s.recv(4096); sys.stdout.write(d.hex())"
    )
    tool = f"timeout 3 {redis_host.engine}-cli -h {address.strip('[]')} -p {port} PING"
    said = redis_host.run(f'{tool} 2>&1; python3 -c "{program}" {address.strip("[]")} {port} 2>/dev/null').stdout
    assert not re.search(r"PONG|NOAUTH|^\+|2b504f4e47|4e4f41555448", said)


def test_key_exchange_is_x25519(redis_host: Machine) -> None:
    """A client that leaves the choice to the server agrees on X25519."""
    assert re.search(r"(Server|Peer) Temp Key: X25519", redis_host.s_client())


@pytest.mark.parametrize("group", ["P-521", "ffdhe2048", "X448"])
def test_other_groups_are_refused(redis_host: Machine, group: str) -> None:
    """A group outside X25519, P-256 and P-384 is not spoken: OpenSSL's policy is the one in our file."""
    assert "alert handshake failure" in redis_host.s_client(f"-groups {group}")


@pytest.mark.parametrize("suite", ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"])
def test_wanted_suites_are_spoken(redis_host: Machine, suite: str) -> None:
    """Each AEAD suite of TLS 1.3 that Mozilla's "modern" profile names is spoken."""
    assert f"New, TLSv1.3, Cipher is {suite}" in redis_host.s_client(f"-tls1_3 -ciphersuites {suite}")


@pytest.mark.parametrize("suite", ["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"])
def test_other_suites_are_refused(redis_host: Machine, suite: str) -> None:
    """No other suite of TLS 1.3 is spoken."""
    assert "alert handshake failure" in redis_host.s_client(f"-tls1_3 -cipher DEFAULT:@SECLEVEL=0 -ciphersuites {suite}")


def test_weak_ciphers_of_1_2_are_refused(redis_host: Machine) -> None:
    """No cipher of TLS 1.2 without forward secrecy or without AEAD is spoken, whatever the lowest version is."""
    weak = "ALL:!ECDHE+AESGCM:!ECDHE+CHACHA20:@SECLEVEL=0"
    assert "Cipher is (NONE)" in redis_host.s_client(f"-tls1_2 -cipher '{weak}'")


def test_sessions_are_not_resumed(redis_host: Machine) -> None:
    """A second connection does the whole handshake again: no session outlives the certificate that opened it."""
    said = redis_host.run(
        f"""t=$(mktemp -d); trap 'rm -rf "$t"' EXIT HUP INT TERM; export OPENSSL_CONF=/dev/null
c="timeout 5 openssl s_client -connect {redis_host.door} -CAfile {OPERATOR}/ca.crt"
c="$c -cert {OPERATOR}/client.crt -key {OPERATOR}/client.key"
printf '{PING}' | $c -quiet -sess_out "$t/s" >/dev/null 2>&1
[ -s "$t/s" ] || {{ echo 'no ticket given'; exit; }}
printf '' | $c -sess_in "$t/s" 2>&1 | grep -E '^(New|Reused),'"""
    ).stdout
    assert "Reused" not in said
    assert "New," in said or "no ticket given" in said


def test_compression_is_off(redis_host: Machine) -> None:
    """There is no compression (CRIME)."""
    assert re.search(r"^Compression: NONE$", redis_host.s_client(), re.M)
