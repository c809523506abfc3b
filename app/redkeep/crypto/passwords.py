"""Passwords: made, judged, and hashed the way Redis wants them."""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata

from redkeep.errors import ConfigurationError

PASSWORD_BYTES = 32
"""Random bytes in a generated password: 256 bits, as many as its SHA-256 hash can carry."""

MIN_LENGTH = 16
"""Characters. The PRD's settings demand 16; NIST SP 800-63B-4 section 3.1.1.2 asks for 15."""

MAX_LENGTH = 512
"""Bytes in UTF-8: CONFIG_AUTHPASS_MAX_LEN in Redis' server.h, the longest `requirepass` and `masterauth`."""

MIN_DISTINCT = 5
"""Different characters: below it stand "aaaa...", "abab..." and "12341234...", never 16 random hex digits."""

PBKDF2_ITERATIONS = 600_000
"""OWASP Password Storage Cheat Sheet for PBKDF2-HMAC-SHA256; 0.3 s on the machine this was written on."""

MIN_SALT_BYTES = 16
"""NIST SP 800-132 section 5.1: a salt of at least 128 bits."""

_QUOTES = "\"'`"
_SUBSTITUTIONS = ("$(", "${")
_KNOWN_WEAK = (
    "change_in_production",
    "changeinproduction",
    "changeme",
    "changethis",
    "password",
    "passw0rd",
    "yoursecret",
    "yourredis",
    "supersecret",
    "12345678",
    "abcdefgh",
    "qwertyui",
    "letmein",
    "foobared",
    "replaceme",
    "placeholder",
)


def generate_password() -> str:
    """Return a new random password: 32 bytes as URL-safe base64 without padding, 43 characters.

    The alphabet `A-Za-z0-9_-` survives URLs, env files, redis.conf and shells without quoting.
    """
    return base64.urlsafe_b64encode(os.urandom(PASSWORD_BYTES)).rstrip(b"=").decode("ascii")


def password_hash(password: str) -> str:
    """Return the lower-case hex SHA-256 of `password`, 64 characters, as `ACL SETUSER name #hash` takes it.

    A plain hash is enough only because the passwords are random (Redis ACL documentation, "How passwords
    are stored internally"); `validate_password` keeps guessable ones out.
    """
    return hashlib.sha256(password.encode("utf-8")).hexdigest()


def validate_password(password: str, *, field: str) -> None:
    """Accept a password that is safe to render, to send and to keep; raise otherwise.

    At least 16 characters, at most 512 bytes in UTF-8; printable, no white space and no quotes (a newline
    in users.acl or redis.conf begins a new line there, which can be a new administrator; a space or a quote
    stops the server); no shell substitution (an env file keeps it as literal text); none of the well-known
    template passwords.

    Raises ConfigurationError; the message names `field`, never the value.
    """
    if len(password) < MIN_LENGTH:
        raise ConfigurationError(
            f"{field} is shorter than {MIN_LENGTH} characters; use a random one of 43 (`redkeep secrets env --production`)"
        )
    _refuse_unrenderable(password, field)
    if len(password.encode("utf-8")) > MAX_LENGTH:
        raise ConfigurationError(f"{field} is longer than {MAX_LENGTH} bytes, which Redis does not accept")
    if any(mark in password for mark in _SUBSTITUTIONS):
        raise ConfigurationError(
            f"{field} contains a shell substitution, which an env file keeps as text; write the value itself"
        )
    if len(set(password)) < MIN_DISTINCT:
        raise ConfigurationError(
            f"{field} repeats fewer than {MIN_DISTINCT} different characters; use a random one"
        )
    folded = password.casefold()
    squeezed = folded.replace("_", "").replace("-", "")
    if any(word in folded or word in squeezed for word in _KNOWN_WEAK):
        raise ConfigurationError(f"{field} contains a well-known or template password; use a random one")


def validate_passphrase(passphrase: str, *, field: str) -> None:
    """Accept a passphrase a person types: 16 to 512 printable characters, spaces allowed.

    Raises ConfigurationError; the message names `field`, never the value.
    """
    if not MIN_LENGTH <= len(passphrase) <= MAX_LENGTH:
        raise ConfigurationError(
            f"{field} must be {MIN_LENGTH} to {MAX_LENGTH} characters long; use several random words"
        )
    if not passphrase.isprintable():
        raise ConfigurationError(f"{field} holds a control or other non-printable character; remove it")
    if len(set(passphrase)) < MIN_DISTINCT:
        raise ConfigurationError(
            f"{field} repeats fewer than {MIN_DISTINCT} different characters; use random words"
        )


def derive_key(passphrase: str, *, salt: bytes, iterations: int = PBKDF2_ITERATIONS) -> bytes:
    """Stretch `passphrase` into a 32-byte key with PBKDF2-HMAC-SHA256 (RFC 8018).

    The passphrase is taken in Unicode NFKC (NIST SP 800-63B-4), so that two keyboards give one key. The salt
    is random, at least 16 bytes, and kept beside what the key protects.

    Raises ConfigurationError for an empty passphrase, a short salt, or fewer than 600,000 iterations.
    """
    if not passphrase:
        raise ConfigurationError("the passphrase is empty")
    if len(salt) < MIN_SALT_BYTES:
        raise ConfigurationError(
            f"the salt has {len(salt)} bytes; at least {MIN_SALT_BYTES} random ones are needed"
        )
    if iterations < PBKDF2_ITERATIONS:
        raise ConfigurationError(
            f"{iterations} PBKDF2 iterations are too few; at least {PBKDF2_ITERATIONS} are needed"
        )
    normal = unicodedata.normalize("NFKC", passphrase).encode("utf-8")
    return hashlib.pbkdf2_hmac("sha256", normal, salt, iterations, dklen=32)


def _refuse_unrenderable(password: str, field: str) -> None:
    if "\n" in password or "\r" in password:
        raise ConfigurationError(
            f"{field} holds a line break, which adds a line (a user, a setting) to the files it is written to"
        )
    if any(character.isspace() for character in password):
        raise ConfigurationError(f"{field} holds white space; remove it")
    if not password.isprintable():
        raise ConfigurationError(f"{field} holds a control or other non-printable character; remove it")
    if any(quote in password for quote in _QUOTES):
        raise ConfigurationError(
            f"{field} holds a quote, which ends a value in redis.conf and env files; remove it"
        )
