"""Redkeep: an encrypted cache in front of a hardened Redis."""

from __future__ import annotations

__version__ = "0.1.0"
