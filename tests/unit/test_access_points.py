"""A running cache notices what changes in the files of its settings, wherever the value itself is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from redkeep.cache.access_points import Access
from redkeep.crypto.keyring import generate_key
from redkeep.crypto.passwords import generate_password
from redkeep.optimization import SecurityOptimizationConfig
from redkeep.settings import Settings


def private(path: Path, text: str) -> Path:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def access_of(settings: Settings) -> Access:
    found = Access.of(
        settings, encrypted=True, namespace="", tuned=SecurityOptimizationConfig(), redis_tls_enabled=True, redis_url=settings.redis_url
    )
    assert found is not None
    return found


@pytest.mark.parametrize("way", ["named", "environment"])
def test_a_key_and_a_password_in_files_of_their_own_are_noticed(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Docker's secrets: the env file only names them, and never changes itself."""
    old, new = generate_key(), generate_key()
    keys, password = private(tmp_path / "keys", old), private(tmp_path / "password", generate_password())
    lines = ["REDIS_URL=rediss://127.0.0.1:6380/0", f"REDIS_ENCRYPTION_KEYS_FILE={keys}", f"REDIS_CACHE_PASSWORD_FILE={password}"]
    env_file = private(tmp_path / "cache.env", "\n".join(lines))
    if way == "environment":
        for line in [*lines, f"REDIS_SETTINGS_FILE={env_file}"]:
            monkeypatch.setenv(*line.split("=", 1))
    access = access_of(Settings.load(env_file if way == "named" else None))
    assert access.changes() == ((), False)
    private(keys, f"{new},{old}")
    assert access.changes() == ((new, old), False)
    private(password, generate_password())
    assert access.changes() == ((), True)


def test_settings_that_stand_beside_the_env_file_are_noticed(tmp_path: Path) -> None:
    """What people add in the file that REDKEEP_LOCAL_FILE names counts as the rest."""
    old, new = generate_key(), generate_key()
    local = private(tmp_path / "local.env", f"REDIS_ENCRYPTION_KEYS={old}")
    env_file = private(tmp_path / "cache.env", f"REDIS_URL=rediss://127.0.0.1:6380/0\nREDKEEP_LOCAL_FILE={local}")
    access = access_of(Settings.load(env_file))
    private(local, f"REDIS_ENCRYPTION_KEYS={new},{old}")
    assert access.changes() == ((new, old), False)
