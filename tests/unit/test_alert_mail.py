"""The mail itself, without a server: what stands in its head and its text, whatever names strangers have."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default

from redkeep.monitoring.alert import Alert
from redkeep.monitoring.alert_mail import MailChannel
from redkeep.monitoring.alert_settings import Mail

SETTINGS = Mail(
    recipients=("a@example.org", "b@example.org"), sender="redkeep@example.net", host="localhost", port=25, security="starttls",
    username=None, password=None, ca_file=None,
)  # fmt: skip
ALERT = Alert(
    id="00ff", kind="auth_failures_per_hour", title="High Failures", message="12 failed logins", severity="error", state="firing",
    host="redis-1", timestamp=datetime(2026, 1, 2, tzinfo=UTC), details={"count": 12, "users": "x\r\nBcc: eve@example.org", "none": ""},
)  # fmt: skip


def test_the_head() -> None:
    """Who, to whom, what, and when; nobody's holiday notice answers it; a repeat is the same mail."""
    mail, again = MailChannel(SETTINGS).message(ALERT), MailChannel(SETTINGS).message(ALERT)
    assert ("redkeep@example.net", "a@example.org, b@example.org") == (mail["From"], mail["To"])
    assert ("[redkeep] firing: High Failures (redis-1)", "auto-generated") == (mail["Subject"], mail["Auto-Submitted"])
    assert "Fri, 02 Jan 2026 00:00:00 -0000" == mail["Date"]
    assert "<redkeep.00ff@example.net>" == mail["Message-ID"] == again["Message-ID"]


def test_the_text() -> None:
    """The message, and a line for each detail that there is."""
    read = message_from_bytes(MailChannel(SETTINGS).message(ALERT).as_bytes(), policy=default)
    lines = read.get_content().splitlines()
    assert ["12 failed logins", ""] == lines[:2]
    assert {"state: firing", "severity: error", "host: redis-1", "count: 12", r"users: x\r\nBcc: eve@example.org"} <= set(lines)
    assert not any(line.startswith(("none", "Bcc")) for line in lines)


def test_a_title_that_would_be_a_header() -> None:
    """Line ends become text, and a long one is cut."""
    mail = MailChannel(SETTINGS).message(Alert(**{**{n: getattr(ALERT, n) for n in Alert.__slots__}, "title": "x\r\nBcc: eve@b.c" + "y" * 500}))
    assert mail["Bcc"] is None
    assert len(str(mail["Subject"])) <= 150
    assert r"x\r\nBcc" in str(mail["Subject"])
