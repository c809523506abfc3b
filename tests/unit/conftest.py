"""Fixtures of this folder: a place for the operator's secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from redkeep.crypto.store import SecretStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "local"


@pytest.fixture
def store(folder: Path) -> SecretStore:
    return SecretStore.open(folder, create=True)
