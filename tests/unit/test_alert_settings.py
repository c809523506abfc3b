"""Alert settings: what holds is read as it stands, what does not is one sentence with the variable's name and no value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redkeep.errors import ConfigurationError
from redkeep.monitoring.alert_settings import PREFIX, AlertSettings
from redkeep.monitoring.setting_names import ALERT_NAMES, ALERT_SECRETS
from tests.unit.wanted import ROOT

MAIL = {"SECURITY_ALERT_EMAIL": "ops@example.org", "SECURITY_ALERT_SMTP_HOST": "mail.example.org"}
HOOK = {"SECURITY_ALERT_WEBHOOK": "https://hooks.example.org/x?token=t0ken"}


def named(**more: str) -> dict[str, str]:
    return {f"SECURITY_ALERT_{name}": value for name, value in more.items()}


def test_nothing_set() -> None:
    """No channel but the log, the PRD's thresholds."""
    found = AlertSettings.read({"PATH": "/bin", "SECURITY_ALERT_EMAIL": " "})
    assert (None, None) == (found.mail, found.webhook)
    assert {"auth_failures_per_hour": 10, "encryption_errors_per_hour": 5, "connection_failures_per_hour": 20} == found.thresholds


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("TLS", 465)])
def test_a_mail_account(security: str, port: int) -> None:
    """Several recipients, the first is the sender by default; the port follows from the kind of TLS."""
    mail = AlertSettings.read({**MAIL, **named(EMAIL="a@example.org, b@example.org", SMTP_SECURITY=security)}).mail
    assert mail
    assert (("a@example.org", "b@example.org"), "a@example.org", port) == (mail.recipients, mail.sender, mail.port)
    assert (None, None) == (mail.username, mail.password)


def test_thresholds_cooldown_and_sender() -> None:
    """Each is what its variable says."""
    found = AlertSettings.read({
        **MAIL, **named(EMAIL_FROM="redkeep@example.org", COOLDOWN_SECONDS="60"),
        **named(AUTH_FAILURES_PER_HOUR="1", ENCRYPTION_ERRORS_PER_HOUR="2", CONNECTION_FAILURES_PER_HOUR="3"),
    })  # fmt: skip
    assert found.mail
    assert ("redkeep@example.org", 60) == (found.mail.sender, found.cooldown_seconds)
    assert {"auth_failures_per_hour": 1, "encryption_errors_per_hour": 2, "connection_failures_per_hour": 3} == found.thresholds


def test_secrets_from_files(tmp_path: Path) -> None:
    """Each secret may lie in a file that others cannot read; it shows in no repr, and is known as a secret."""
    files = {"WEBHOOK_FILE": HOOK["SECURITY_ALERT_WEBHOOK"], "WEBHOOK_SECRET_FILE": "w" * 32, "SMTP_PASSWORD_FILE": "m" * 20}
    for name, secret in files.items():
        (tmp_path / name).write_text(secret + "\n")
        (tmp_path / name).chmod(0o600)
    pointers = named(**{name: str(tmp_path / name) for name in files}, SMTP_USERNAME="alerts")
    found = AlertSettings.read({**MAIL, **pointers})
    assert set(files.values()) == set(found.secrets)
    assert not any(secret in repr(found) for secret in files.values())
    (tmp_path / "WEBHOOK_FILE").chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"SECURITY_ALERT_WEBHOOK_FILE.*open to every user"):
        AlertSettings.read({**MAIL, **pointers})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (named(EMIAL="a@b.c"), "SECURITY_ALERT_EMIAL is not a setting"),
        ({**HOOK, **named(WEBHOOK_FILE="/x")}, "SECURITY_ALERT_WEBHOOK and SECURITY_ALERT_WEBHOOK_FILE are both set"),
        ({**MAIL, **named(EMAIL="no-address")}, "SECURITY_ALERT_EMAIL contains something that is not a mail address"),
        ({**MAIL, **named(EMAIL="a@b.c\r\nBcc: eve@b.c")}, "SECURITY_ALERT_EMAIL contains something"),
        ({**MAIL, **named(EMAIL_FROM="x y@b.c")}, "SECURITY_ALERT_EMAIL_FROM contains something"),
        (named(EMAIL="a@b.c"), "SECURITY_ALERT_SMTP_HOST is missing"),
        ({**MAIL, **named(SMTP_HOST="a b")}, "SECURITY_ALERT_SMTP_HOST is missing"),
        ({**MAIL, **named(SMTP_SECURITY="none")}, "SECURITY_ALERT_SMTP_SECURITY must be starttls or tls"),
        ({**MAIL, **named(SMTP_USERNAME="u")}, "belong together"),
        ({**MAIL, **named(SMTP_PASSWORD="p" * 9)}, "belong together"),
        ({**MAIL, **named(SMTP_USERNAME="u", SMTP_PASSWORD="p\x00p")}, "holds a control character"),  # pragma: allowlist secret - not one
        ({**MAIL, **named(SMTP_PORT="0")}, "SECURITY_ALERT_SMTP_PORT must be a whole number from 1 to 65535"),
        ({**MAIL, **named(SMTP_PORT="٤٦٥")}, "SECURITY_ALERT_SMTP_PORT must be a whole number"),
        ({**MAIL, **named(SMTP_CA_FILE="/nowhere/ca.pem")}, "SECURITY_ALERT_SMTP_CA_FILE: /nowhere/ca.pem is not a readable file"),
        (named(WEBHOOK="http://hooks.example.org/"), "SECURITY_ALERT_WEBHOOK must begin with https://"),
        (named(WEBHOOK="ftp://hooks.example.org/"), "SECURITY_ALERT_WEBHOOK must begin with https://"),
        (named(WEBHOOK="https://u:hunter2@example.org/"), "SECURITY_ALERT_WEBHOOK is not a usable URL"),  # pragma: allowlist secret - not one
        (named(WEBHOOK="https://example.org:0/"), "SECURITY_ALERT_WEBHOOK is not a usable URL"),
        (named(WEBHOOK="https://exa mple.org/"), "SECURITY_ALERT_WEBHOOK is not a usable URL"),
        (named(WEBHOOK="https://example.org/x\r\nHost: y"), "SECURITY_ALERT_WEBHOOK is not a usable URL"),
        (named(WEBHOOK="https://[::1/"), "SECURITY_ALERT_WEBHOOK is not a usable URL"),
        (named(WEBHOOK="https://example.org/#x"), "SECURITY_ALERT_WEBHOOK is not a usable URL"),
        (named(WEBHOOK="hunter2"), "SECURITY_ALERT_WEBHOOK is not a usable URL"),
        ({**HOOK, **named(WEBHOOK_SECRET="hunter2")}, "SECURITY_ALERT_WEBHOOK_SECRET is shorter than 16"),  # pragma: allowlist secret - not one
        ({**HOOK, **named(WEBHOOK_SECRET="x" * 15)}, "SECURITY_ALERT_WEBHOOK_SECRET is shorter than 16"),  # pragma: allowlist secret - not one
        ({**HOOK, **named(WEBHOOK_NETWORKS="10.0.0.0/33")}, "SECURITY_ALERT_WEBHOOK_NETWORKS must be networks"),
        ({**HOOK, **named(WEBHOOK_NETWORKS="10.0.0.1/8")}, "SECURITY_ALERT_WEBHOOK_NETWORKS must be networks"),
        ({**HOOK, **named(DEV_WEBHOOK_HTTP="true")}, "SECURITY_ALERT_DEV_WEBHOOK_HTTP is refused in production"),
        ({**HOOK, **named(DEV_WEBHOOK_HTTP="perhaps")}, "SECURITY_ALERT_DEV_WEBHOOK_HTTP must be true or false"),
        (named(COOLDOWN_SECONDS="-1"), "SECURITY_ALERT_COOLDOWN_SECONDS must be a whole number"),
        (named(AUTH_FAILURES_PER_HOUR="0"), "SECURITY_ALERT_AUTH_FAILURES_PER_HOUR must be a whole number from 1"),
        (named(AUTH_FAILURES_PER_HOUR="1e3"), "SECURITY_ALERT_AUTH_FAILURES_PER_HOUR must be a whole number"),
    ],
)
def test_what_does_not_hold(more: dict[str, str], words: str) -> None:
    """The variable, and what to do; never its value."""
    with pytest.raises(ConfigurationError) as caught:
        AlertSettings.read(more)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_variable_is_documented() -> None:
    """docs/monitoring.md names it, in full or by its end (`SECURITY_ALERT_SMTP_HOST`, `_PORT`)."""
    words = re.findall(r"`([A-Z_]+)", (ROOT / "docs/monitoring.md").read_text())
    names = [PREFIX + name for name in (*ALERT_NAMES, *ALERT_SECRETS)]
    assert [] == [name for name in names if not any(name == word or (word[0] == "_" and name.endswith(word)) for word in words)]


def test_plain_http_in_development_only() -> None:
    """`dev_webhook_http` holds where ENVIRONMENT says development."""
    found = AlertSettings.read({**named(WEBHOOK="http://127.0.0.1:8/x", DEV_WEBHOOK_HTTP="true"), "ENVIRONMENT": "development"})
    assert found.webhook
    assert found.webhook.dev_http
