"""The names people import from redkeep itself."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import redkeep
from redkeep import errors

# The names of the PRD, by which people will look for them.
PROMISED = {
    *("Settings", "CacheInterface", "AIResponseCache", "SecureAIResponseCache", "CacheKeyGenerator", "CachePerformanceMonitor"),
    *("EncryptedCacheLayer", "SecureRedisAuth", "TLSRedisConnection", "BasicACLManager", "SecurityMonitor"),
    *("SecurityMetricsCollector", "SimpleAlertManager", "SecurityOptimizationConfig", "DetailedMigrationManager"),
    *("AIResponseCacheSecurityMigration", "get_security_status", "SecurityError"),
}
ERRORS = {name for name, thing in vars(errors).items() if isinstance(thing, type) and thing.__module__ == errors.__name__}


def test_the_names_are_sorted_and_unique() -> None:
    """__all__ is a sorted list."""
    assert sorted(set(redkeep.__all__)) == list(redkeep.__all__)


@pytest.mark.parametrize("name", redkeep.__all__)
def test_a_name_can_be_imported(name: str) -> None:
    """Each loads at its first use and calls itself so."""
    thing = getattr(redkeep, name)
    assert name == thing.__name__
    assert thing is getattr(importlib.import_module(thing.__module__), name)


def test_the_whole_error_tree_is_public() -> None:
    """Whoever catches an error finds it where the package is; all are RedkeepErrors."""
    assert set(redkeep.__all__) >= ERRORS
    assert [] == [name for name in ERRORS if not issubclass(getattr(redkeep, name), redkeep.RedkeepError)]


def test_every_promised_name_is_there() -> None:
    """Whoever comes from the PRD finds its names."""
    assert set() == PROMISED - set(redkeep.__all__)


def test_dir_shows_the_names() -> None:
    """Completion works before anything is loaded."""
    assert set(redkeep.__all__) <= set(dir(redkeep))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """hasattr and from-imports behave as everywhere."""
    assert not hasattr(redkeep, "nonsense")
    with pytest.raises(ImportError):
        exec("from redkeep import nonsense")


def test_importing_redkeep_is_light() -> None:
    """The import alone loads none of the big packages."""
    code = "import sys, redkeep; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    source = Path(redkeep.__file__).parent.parent
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)})
    heavy = {"pydantic", "pydantic_settings", "redis", "cryptography", "fastapi", "streamlit", "rich", "asyncio", "ssl", "typing_extensions"}
    assert set() == heavy & set(done.stdout.split())
