"""What travels to a host: one archive with the wheel, the locked list and, when asked, its wheels."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploys import release
from redkeep.errors import ConfigurationError

HOSTS = {"bookworm": "3.11.2", "trixie": "3.13.5"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two wheels of the same source, each made from a copy of its own."""

    def build(root: Path) -> bytes:
        shutil.copytree(release.ROOT / "app", root / "app", ignore=shutil.ignore_patterns("__pycache__"))
        release._pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(root / "app"))
        return next(root.glob("redkeep-*.whl")).read_bytes()

    with ThreadPoolExecutor() as pool:
        return list(pool.map(build, [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]))


def requirements(text: str) -> dict[str, list[str]]:
    """The hashes of each locked package."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"([a-z0-9-]+)==", line):
            found[name := match[1]] = []
        else:
            found[name] += re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line)
    return found


def test_the_wheel_is_the_same_twice(built: list[bytes]) -> None:
    """Two builds of one source differ in no byte."""
    assert built[0] == built[1]


def test_the_wheel_holds_the_package_and_nothing_else(built: list[bytes]) -> None:
    """Every source file is in it; no test, lock, cache or secret is."""
    names = set(zipfile.ZipFile(io.BytesIO(built[0])).namelist())
    source = release.ROOT / "app"
    wanted = {p.relative_to(source).as_posix() for p in (source / "redkeep").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert wanted == {name for name in names if not name.startswith("redkeep-")}
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt"} == {name.rpartition("/")[2] for name in names if name.startswith("redkeep-")}


@pytest.mark.parametrize("python", HOSTS.values())
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_locked_package_has_hashes(python: str, machine: str) -> None:
    """What is left for a host is a list that pip takes with --require-hashes: each entry whole, none without a hash."""
    text = release.locked_for(python, machine)
    assert [] == [name for name, hashes in requirements(text).items() if not hashes]
    assert not re.search(r"\\\n(?! )", text), "an entry that goes on must be followed by its hash"
    assert not re.search(r"[^\\]\n +--hash", text), "a hash must belong to an entry"
    assert ";" not in text


def test_markers_are_judged_by_the_host_s_python() -> None:
    """async-timeout is for Python before 3.11.3: Debian 12 has 3.11.2 and needs it, Debian 13 does not."""
    old, new = (set(requirements(release.locked_for(python, "x86_64"))) for python in HOSTS.values())
    assert {"async-timeout"} == old - new
    assert set() == new - old


def test_no_package_is_lost_between_the_lock_and_the_host() -> None:
    """Everything in the lock without a marker is in the host's list, with the same hashes."""
    text = release.LOCK.read_text()
    marked = set(re.findall(r"^([a-z0-9-]+)==[^;\n]*;", text, re.MULTILINE))
    kept = requirements(release.locked_for("3.13.5", "x86_64"))
    assert {name: hashes for name, hashes in requirements(text).items() if name not in marked}.items() <= kept.items()


def test_a_release_is_named_by_source_and_python() -> None:
    """Two hosts with one Python share a name; another minor version has another environment."""
    assert release.release_name("3.11.2") == release.release_name("3.11.9")
    assert re.fullmatch(r"[0-9a-f]{16}-py3\.13", release.release_name("3.13.5"))
    assert release.release_name("3.11.2") != release.release_name("3.13.5")


@pytest.mark.parametrize("change", ["redkeep/errors.py", "redkeep/py.typed", "redkeep/new.html", "pyproject.toml", "requirements.lock"])
def test_any_change_is_another_release(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, data files, metadata and lock all count: none is left old on a host."""
    shutil.copytree(release.ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "LOCK", tmp_path / "app" / "requirements.lock")
    before = release.source_digest.__wrapped__()
    path = tmp_path / "app" / change
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b"\n")
    assert before != release.source_digest.__wrapped__()


def test_compiled_files_are_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the package on the operator's machine does not make a new release."""
    shutil.copytree(release.ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "LOCK", tmp_path / "app" / "requirements.lock")
    before = release.source_digest.__wrapped__()
    (tmp_path / "app" / "redkeep" / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "app" / "redkeep" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert before == release.source_digest.__wrapped__()


def test_the_archive_holds_wheel_and_lock(built: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the index as source, these two are all; both lie flat."""
    wheel = tmp_path / "redkeep-0-py3-none-any.whl"
    wheel.write_bytes(built[0])
    monkeypatch.setattr(release, "wheel", lambda: wheel)
    with tarfile.open(fileobj=io.BytesIO(release.archive("3.11.2", "amd64", "index"))) as tar:
        assert [wheel.name, "requirements.lock"] == tar.getnames()


def test_an_unknown_architecture_is_an_error() -> None:
    """Wheels are downloaded for the machines Debian and the index both have."""
    with pytest.raises(ConfigurationError, match="no wheels for the architecture riscv64: set package_source to index"):
        release.wheelhouse("3.11.2", "riscv64")


def test_a_failing_pip_is_one_sentence() -> None:
    """pip's last line is the reason; there is no traceback of it."""
    with pytest.raises(ConfigurationError, match=r"\Apip wheel failed for the package: [^\n]+\Z"):
        release._pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "/nonexistent")
