"""Names of SECURITY_... variables: one that is misspelt stops the start, with the name that was meant; others' are left alone."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from redkeep.cli import main
from redkeep.errors import ConfigurationError
from redkeep.monitoring.alert_settings import THRESHOLDS
from redkeep.monitoring.monitor_settings import MonitorSettings
from redkeep.monitoring.setting_names import ALERT_NAMES, ALERT_PREFIX, KNOWN


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SECURITY_ALERT_EMIAL", "SECURITY_ALERT_EMAIL"),
        ("SECURITY_MONITOR_NODE", "SECURITY_MONITOR_NODES"),
        ("SECURITY_MONTIOR_NODES", "SECURITY_MONITOR_NODES"),
        ("SECURTY_ALERT_WEBHOOK", "SECURITY_ALERT_WEBHOOK"),
        ("security_alert_email", "SECURITY_ALERT_EMAIL"),
        ("SECURITY_ALERTS_SMTP_HOST", "SECURITY_ALERT_SMTP_HOST"),
    ],
)
def test_a_slip_of_the_pen(name: str, meant: str) -> None:
    """One sentence with the variable and the nearest name, never the value."""
    with pytest.raises(ConfigurationError) as caught:
        MonitorSettings.read({name: "hunter2hunter2"})
    assert f"{name} is not a setting of Redkeep; write {meant} if you mean that, or remove it" == str(caught.value)


def test_a_name_like_none() -> None:
    """Under our prefix, and near nothing."""
    with pytest.raises(ConfigurationError, match=r"SECURITY_ALERT_XYZ is not a setting of Redkeep; check the spelling or remove it"):
        MonitorSettings.read({"SECURITY_ALERT_XYZ": "1"})


def test_others_have_names_too() -> None:
    """What another program calls its own is no mistake, and neither is any name of ours."""
    others = dict.fromkeys(("SECURITY_HEADERS_ENABLED", "SECURE_SSL_REDIRECT", "SECURITY_PASSWORD_SALT"), "1")
    assert MonitorSettings() == MonitorSettings.read(others)
    assert {ALERT_PREFIX + name.upper() for name in THRESHOLDS} <= KNOWN
    assert len(set(ALERT_NAMES)) == len(ALERT_NAMES)


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["watch", "--seconds", "1"], ["alerts", "test"], ["serve", "--port", "0"]])
def test_each_command_refuses(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything connects or listens: exit code 2 and the sentence."""
    monkeypatch.setenv("REDKEEP_API_KEY", secrets.token_hex(32))
    path = tmp_path / "cache.env"
    path.write_text("REDIS_URL=redis://127.0.0.1:1\nENVIRONMENT=development\nSECURITY_ALERT_EMIAL=ops@example.org\n")
    path.chmod(0o600)
    assert 2 == main([*words, "--env-file", str(path)])
    assert "SECURITY_ALERT_EMIAL is not a setting of Redkeep; write SECURITY_ALERT_EMAIL" in capsys.readouterr().err
