"""How we speak TLS: one kind of context, from our own CA alone, with the peer's name checked."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from pathlib import Path
from typing import Final, NoReturn

from redkeep.errors import CertificateError, ConfigurationError, SecurityError
from redkeep.target import Target

logger = logging.getLogger(__name__)

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def client_context(
    target: Target, *, only_version: str | None = None, client_certificate: bool = True
) -> ssl.SSLContext:
    """A context that trusts `target.ca_file` and nothing else, checks the name, and shows the client certificate.

    The system's CAs are not loaded: each of some 140 of them could vouch for a false server, and loading them costs
    25 ms a connection. Share the result: it is safe for threads and for event loops. `only_version`
    ("1.2" or "1.3") and `client_certificate=False` make the connections that the posture wants to see refused.

    Raises ConfigurationError without a CA file or with a file that cannot be read, CertificateError when a file is no
    PEM or certificate and key do not match.
    """
    if target.ca_file is None:
        raise ConfigurationError("REDIS_TLS_CA_FILE is not set; name the file with the CA that signed the server's certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname from the start
    context.minimum_version = VERSIONS[only_version or target.tls_min_version]
    if only_version:
        context.maximum_version = VERSIONS[only_version]
    try:
        context.load_verify_locations(cafile=target.ca_file)
    except ssl.SSLError:
        raise CertificateError(f"REDIS_TLS_CA_FILE: {target.ca_file} contains no certificate in PEM format; name the file with the CA") from None
    except OSError as error:
        raise ConfigurationError(f"REDIS_TLS_CA_FILE: {target.ca_file} cannot be read: {error.strerror}") from None
    if client_certificate and target.cert_file and target.key_file:
        pair = f"{target.cert_file} and {target.key_file}"
        try:
            context.load_cert_chain(target.cert_file, target.key_file, password=_no_prompt)
        except ssl.SSLError:
            raise CertificateError(f"REDIS_TLS_CERT_FILE, REDIS_TLS_KEY_FILE: {pair} are not a matching pair in PEM format") from None
        except OSError as error:
            raise ConfigurationError(
                f"REDIS_TLS_CERT_FILE, REDIS_TLS_KEY_FILE: {pair} cannot be read: {error.strerror}"
            ) from None
    return context


def alert_after_handshake(connection: socket.socket, *, timeout: float) -> ssl.SSLError | None:
    """The server's refusal of our certificate, when it has one; None when it has none within `timeout` seconds.

    In TLS 1.3 the client has finished before the server has judged (RFC 8446, 4.4.2.4), and a client that already sent a
    command can get a reset instead of the alert. So: send nothing, and read. Raises OSError when the connection fails in
    another way.
    """
    connection.settimeout(timeout)
    try:
        connection.recv(1)
    except (ssl.SSLEOFError, TimeoutError):  # an end without an alert is a server that went away, not a judgement
        return None
    except ssl.SSLError as error:
        return error
    return None


class SharedContext:
    """The one context of a target, made anew when a certificate file changes: a renewal needs no restart.

    While the files are half written (certificate and key do not match) the context before stays in use.
    """

    __slots__ = ("_context", "_files", "_seen", "_target")

    def __init__(self, target: Target) -> None:
        """Load the files. Raises what `client_context` raises."""
        self._target = target
        self._files = tuple(file for file in (target.ca_file, target.cert_file, target.key_file) if file)
        self._seen = self._look()
        self._context = client_context(target)

    def get(self) -> ssl.SSLContext:
        """The context for a new connection; costs one `stat` a file, about 5 microseconds in all."""
        seen = self._look()
        if seen != self._seen:
            try:
                self._context, self._seen = client_context(self._target), seen
            except SecurityError:
                logger.warning("tls_files_unusable", extra={"files": [str(file) for file in self._files]})
        return self._context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(stamp, self._files))


def stamp(file: Path) -> tuple[int, int, int] | None:
    """Inode, time and size of a file, which differ when its content does; None when there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _no_prompt() -> NoReturn:
    raise CertificateError("REDIS_TLS_KEY_FILE is encrypted, and a service cannot type a passphrase; store the key unencrypted with mode 0640")
