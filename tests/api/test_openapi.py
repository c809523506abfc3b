"""The document is exact: schemathesis asks everything in it, rightly and wrongly, and nothing surprises it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.service import Api


def asked(api: Api, folder: Path, *words: str) -> str:
    """The words of a schemathesis run that found nothing."""
    document = folder / "openapi.json"
    document.write_text(api.get("/openapi.json").text)
    tool = str(Path(sys.executable).with_name("schemathesis"))
    options = ["--url", api.url, "--header", f"X-API-Key: {api.key}", "--checks", "all", "--seed", "1", "--no-color", *words]
    ended = subprocess.run([tool, "run", str(document), *options], capture_output=True, text=True, cwd=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_document_is_exact(api: Api, tmp_path: Path) -> None:
    """All its checks: no server error, no undocumented answer, no wrong input accepted, no key ignored."""
    said = asked(api, tmp_path, "--max-examples", "2", "--phases", "coverage,fuzzing")
    assert "Tested: 19" in said


@pytest.mark.soak
def test_the_document_is_exact_at_length(api: Api, tmp_path: Path) -> None:
    """The same with 300 examples a route."""
    asked(api, tmp_path, "--max-examples", "300")
