"""Redkeep: an encrypted cache in front of a hardened Redis."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from redkeep.errors import (
        AuthenticationError,
        CertificateError,
        ConfigurationError,
        DecryptionError,
        PermissionDeniedError,
        RedkeepError,
        SecretStoreError,
        SecurityError,
        ServerUnavailableError,
        TLSError,
    )
    from redkeep.settings import Settings

__all__ = [
    "AuthenticationError",
    "CertificateError",
    "ConfigurationError",
    "DecryptionError",
    "PermissionDeniedError",
    "RedkeepError",
    "SecretStoreError",
    "SecurityError",
    "ServerUnavailableError",
    "Settings",
    "TLSError",
]

# Loaded at first use: `import redkeep` costs a few milliseconds, Settings (pydantic) some 150.
_HOMES = {name: "redkeep.settings" if name == "Settings" else "redkeep.errors" for name in __all__}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'redkeep' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
