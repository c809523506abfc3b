"""The files that container tools read, judged by others: compose files by dclint, Dockerfiles by hadolint and checkov."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploys.engine import ENGINES
from deploys.stages.image import dockerfile
from tests.deploys.runner import ROOT
from tests.lab import engine

pytestmark = pytest.mark.soak
HERE = ROOT / "tests/scanners/files"
TOOLS = ROOT / "build/scanner-files"
COMPOSE = sorted((ROOT / "app/redkeep/stack").glob("compose*.yaml"))


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tools() -> Path:
    """An environment of their own, from hashed locks: they pin what the package does not, and one is for Node."""
    stamp, locks = TOOLS / ".locks", [HERE / "requirements.lock", HERE / "package-lock.json"]
    wanted = "".join(path.read_text() for path in locks)
    if not stamp.exists() or stamp.read_text() != wanted:
        if not shutil.which("npm"):
            engine.run(engine.as_root("apt-get", "-q", "-y", "install", "--no-install-recommends", "nodejs", "npm"))
        for command in (
            (sys.executable, "-m", "venv", str(TOOLS)),
            (str(TOOLS / "bin/pip"), "--quiet", "install", "--require-hashes", "--requirement", str(locks[0])),
        ):
            engine.run(command)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, TOOLS)
        engine.run(("npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefix", str(TOOLS)))
        stamp.write_text(wanted)
    return TOOLS


@pytest.fixture(params=["app", *ENGINES])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with one Dockerfile: the package's, or that of a server's image built on a host."""
    text = (ROOT / "app/Dockerfile").read_bytes() if request.param == "app" else dockerfile(ENGINES[request.param])
    (tmp_path / "Dockerfile").write_bytes(text)
    return tmp_path


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_dclint_finds_nothing(tools: Path, path: Path) -> None:
    """No error and no warning; the one rule that is off says why in its file."""
    done = run(str(tools / "node_modules/.bin/dclint"), "--config", str(HERE / "dclint.yaml"), "--max-warnings", "0", str(path))
    assert (0, "") == (done.returncode, done.stdout.strip()), done.stdout + done.stderr


def test_hadolint_finds_nothing(tools: Path, folder: Path) -> None:
    """Not even a remark."""
    done = run(str(tools / "bin/hadolint"), "Dockerfile", folder=folder)
    assert (0, "") == (done.returncode, done.stdout)


def test_checkov_finds_nothing(tools: Path, folder: Path) -> None:
    """Every check for Dockerfiles passes."""
    done = run(str(tools / "bin/checkov"), "--framework", "dockerfile", "--skip-download", "--output", "json", "-f", "Dockerfile", folder=folder)
    found = json.loads(done.stdout)
    assert [] == [check["check_id"] for check in found["results"]["failed_checks"]]
    assert found["summary"]["passed"] > 0
