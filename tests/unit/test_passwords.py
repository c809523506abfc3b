"""Passwords: what is made, what is refused, and what Redis gets."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redkeep.crypto.passwords import (
    derive_key,
    generate_password,
    password_hash,
    validate_passphrase,
    validate_password,
)
from redkeep.errors import ConfigurationError


def strong(length: int = 20) -> str:
    return ("kX7_qL2-vR9zTm4bWc8s" * 30)[:length]


def test_generated_password_form() -> None:
    """A generated password is 43 URL-safe characters, passes our own validation, and never comes twice."""
    made = {generate_password() for _ in range(500)}
    for password in made:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", password)
        validate_password(password, field="REDIS_PASSWORD")
    assert 500 == len(made)


def test_hash_is_what_acl_setuser_takes() -> None:
    """The hash is the lower-case hex SHA-256 of the UTF-8 password (the vector of the Redis ACL page)."""
    assert "c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2" == password_hash("foobar")
    assert hashlib.sha256("gr\u00fc\u00dfe".encode()).hexdigest() == password_hash("gr\u00fc\u00dfe")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "shorter than 16"),
        (strong(15), "shorter than 16"),
        (strong(513), "longer than 512"),
        ("\u00e9\u00e8\u00ea\u00eb\u0113" * 60, "longer than 512"),
        (strong() + "\nuser evil on >x ~* +@all", "line break"),
        (strong() + "\r", "line break"),
        (strong() + " ", "white space"),
        ("\t" + strong(), "white space"),
        (strong() + "\u00a0", "white space"),
        (strong() + "\u2028", "white space"),
        (strong() + "\x00", "non-printable"),
        (strong() + "\x1b[2J", "non-printable"),
        (strong() + "\u200b", "non-printable"),
        (strong() + "\ud800", "non-printable"),
        (strong() + '"', "quote"),
        (strong() + "'", "quote"),
        (strong() + "`", "quote"),
        ("$(openssl+rand+-base64+32)", "shell substitution"),
        ("${REDIS_PASSWORD:-Xy7Kq}", "shell substitution"),
        ("a" * 40, "different characters"),
        ("1234" * 10, "different characters"),
        ("dev_password_change_in_production", "well-known"),
        ("my-Change-Me-9031-xyz", "well-known"),
        ("PASSWORD-92x7-kkq-41", "well-known"),
        ("test_pass_word_xy_z1", "well-known"),
    ],
)
def test_refused_passwords(password: str, reason: str) -> None:
    """Each unsafe password is refused; the message names the field and the reason, never the value."""
    with pytest.raises(ConfigurationError) as caught:
        validate_password(password, field="REDIS_CACHE_PASSWORD")
    assert str(caught.value).startswith("REDIS_CACHE_PASSWORD ")
    assert reason in str(caught.value)
    assert not password or password not in str(caught.value)


@pytest.mark.parametrize(
    "password", [strong(16), strong(512), "gr\u00fcn-blau-rot-gelb-7", "9f3c-07d1-b5e2-a864"]
)
def test_accepted_passwords(password: str) -> None:
    """Sixteen to 512 printable characters pass, whatever their script."""
    validate_password(password, field="x")


@given(st.text(max_size=600))
def test_what_passes_stays_on_its_line(password: str) -> None:
    """No accepted password can break out of a line of users.acl, redis.conf or an env file."""
    try:
        validate_password(password, field="x")
    except ConfigurationError:
        return
    assert [password] == password.split()
    assert [password] == password.splitlines()
    assert not set(password) & set("\"'`\0")


def test_derive_key_is_pbkdf2_sha256() -> None:
    """A derived key equals the standard library's PBKDF2-HMAC-SHA256 with 600,000 iterations, 32 bytes."""
    salt = bytes(range(16))
    expected = hashlib.pbkdf2_hmac("sha256", b"correct horse", salt, 600_000)
    assert expected == derive_key("correct horse", salt=salt)
    assert 32 == len(expected)


def test_derive_key_normalises_unicode() -> None:
    """A composed and a decomposed accent, as two keyboards send them, give one key."""
    assert derive_key("caf\u00e9", salt=bytes(16)) == derive_key("cafe\u0301", salt=bytes(16))


@settings(max_examples=25)
@given(st.integers(max_value=599_999))
def test_derive_key_refuses_few_iterations(iterations: int) -> None:
    """Fewer than 600,000 iterations are refused."""
    with pytest.raises(ConfigurationError, match="too few"):
        derive_key("correct horse", salt=bytes(16), iterations=iterations)


def test_derive_key_refuses_short_salt_and_empty_passphrase() -> None:
    """A salt under 16 bytes and an empty passphrase are refused."""
    with pytest.raises(ConfigurationError, match="salt"):
        derive_key("correct horse", salt=bytes(15))
    with pytest.raises(ConfigurationError, match="empty"):
        derive_key("", salt=bytes(16))


@pytest.mark.parametrize("passphrase", ["too short", "a" * 20, "several words\nand a line", "x1y2z" * 200])
def test_weak_passphrases(passphrase: str) -> None:
    """Short, monotonous, multi-line and endless passphrases are refused; the value is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        validate_passphrase(passphrase, field="the passphrase")
    assert passphrase not in str(caught.value)
