"""Strangers' words: harmless wherever they are shown, and without our secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redkeep.monitoring.words import Redactor, harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cache_service", "cache_service"),
        ("x\r\nBcc: eve", "x\\r\\nBcc: eve"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202eb\u2028c", "a\\u202eb\\u2028c"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("<b>", "<b>"),
        ("\ud800", "\\ud800"),
        ("grüße", "grüße"),
    ],
)
def test_what_is_not_printable_becomes_its_escape(text: str | bytes, shown: str) -> None:
    """Line ends, escapes, direction marks, bytes that are no text; letters stay as they are."""
    assert shown == harmless(text)


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_any_text_is_one_short_printable_line(text: str | bytes) -> None:
    """Whatever comes in: printable, one line, 64 characters at most."""
    found = harmless(text)
    assert found.isprintable()
    assert len(found) <= 64


def test_long_texts_end_in_an_ellipsis() -> None:
    """10 KB cost no more than what is kept of them."""
    assert "n" * 63 + "…" == harmless("n" * 10_240)


def test_our_secrets_are_cut_out() -> None:
    """A password typed as a user name; the longer secret first, short ones and none are not looked for."""
    redact = Redactor(["hunter2hunter2", "hunter2hunter2-and-more", "short", None])
    assert "x[REDACTED]y [REDACTED]" == redact("xhunter2hunter2-and-morey hunter2hunter2")
    assert "short" == redact("short")
    assert "Redactor(2 secrets)" == repr(redact)


def test_a_secret_that_was_cut_is_cut_out() -> None:
    """A URL with a password in the name's place: what is kept of it ends within the password, and shows nothing of that."""
    password = "".join(f"{number:02x}" for number in range(32))
    redact = Redactor([password, "hunter2hunter2"])
    assert "redis://cache_service:[REDACTED]…" == redact(harmless(f"redis://cache_service:{password}@10.0.0.1:6380/0"))
    assert "n" * 51 + "[REDACTED]…" == redact(harmless("n" * 51 + "hunter2hunter2"))
    assert "n" * 58 + "hunte…" == redact(harmless("n" * 58 + "hunter2hunter2"))
