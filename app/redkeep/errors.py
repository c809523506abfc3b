"""Every error Redkeep raises, as one small tree.

    RedkeepError                        never raised itself
    |-- SecurityError                   a promise of security cannot be kept; never raised itself
    |   |-- AuthenticationError         the server refused the user name or the password
    |   |-- PermissionDeniedError       the server's ACL refused a command, a key or a channel
    |   |-- TLSError                    the handshake, the chain or the peer's name did not hold
    |   |-- DecryptionError             a stored value does not open under our keys for this key and time
    |   |-- ConfigurationError          a setting is missing, wrong or unsafe
    |   |-- SecretStoreError            the operator's secrets folder is missing, loose or locked
    |   `-- CertificateError            a certificate or key cannot be used: expired, mismatched, wrong use
    |-- AlertError                      an alert did not reach its channel
    `-- ServerUnavailableError          Redis is down or unreachable; nothing about security

Messages name the field, file or user that is at fault and the next step. They never hold the value of a secret.
"""

from __future__ import annotations


class RedkeepError(Exception):
    """Base of every error in this package; catch it, never raise it."""


class SecurityError(RedkeepError):
    """Base of the security errors; catch it, never raise it."""


class AuthenticationError(SecurityError):
    """The server refused the user name or the password."""


class PermissionDeniedError(SecurityError):
    """The server's ACL refused a command, a key or a channel."""


class TLSError(SecurityError):
    """The TLS handshake failed: chain, peer name, protocol version or a missing client certificate."""


class DecryptionError(SecurityError):
    """A stored value does not open under our keys for this very key, namespace and time."""


class ConfigurationError(SecurityError):
    """A setting is missing, wrong or unsafe; the message names it and the next step."""


class SecretStoreError(SecurityError):
    """The operator's secrets cannot be used: folder missing, modes too loose, or passphrase wrong."""


class CertificateError(SecurityError):
    """A certificate or key cannot be used: expired, not yet valid, mismatched, or issued for another use."""


class AlertError(RedkeepError):
    """An alert did not reach its channel; `again` says whether trying again can help."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class ServerUnavailableError(RedkeepError):
    """Redis did not answer: refused, timed out, or closed the connection."""
