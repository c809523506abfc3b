"""What a test needs of the machine: skipped where it is missing, but not in CI, where a tier that cannot run must fail."""

from __future__ import annotations

import os
import shutil

import pytest

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def needs(*programs: str, root: bool = False) -> pytest.MarkDecorator:
    """Mark a test with the programs it runs, and whether it must be root."""
    missing = [name for name in programs if shutil.which(name, path=_PATH) is None]
    missing += ["root's rights"] if root and os.geteuid() != 0 else []
    return pytest.mark.skipif(bool(missing) and not os.environ.get("CI"), reason=f"not here: {', '.join(missing)}")
