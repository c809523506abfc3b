"""The package as it travels: one archive with the wheel, the locked list and, when asked, all wheels it needs."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess  # nosec B404 - pip, with arguments of our own making and no shell
import sys
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from packaging.markers import Marker

from deploys.rendering import ROOT
from redkeep.errors import ConfigurationError

LOCK = ROOT / "app" / "requirements.lock"
BUILD = ROOT / "build"

# Wheels that Debian 12 (glibc 2.36) and later can load.
_GLIBC = ("2_36", "2_35", "2_34", "2_31", "2_28", "2_17")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def lock_of(extra: str = "") -> Path:
    """The locked list of a release: of the package alone, or with the extra "api" or "dashboard" of app/pyproject.toml."""
    return ROOT / "app" / f"requirements-{extra}.lock" if extra else LOCK


@cache
def source_digest(extra: str = "") -> str:
    """SHA-256 over the package's source, data files too, and its lock: what a release is."""
    digest = hashlib.sha256()
    source = [p for p in (ROOT / "app" / "redkeep").rglob("*") if p.is_file() and p.parent.name != "__pycache__"]
    for path in sorted([*source, ROOT / "app" / "pyproject.toml", lock_of(extra)]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def release_name(python: str, *, extra: str = "") -> str:
    """The folder of a release on the host, for that host's Python ("3.11.2")."""
    return f"{source_digest(extra)[:16]}-py{'.'.join(python.split('.')[:2])}"


@cache
def wheel() -> Path:
    """Build the wheel of app/, once for each state of the source."""
    folder = BUILD / "wheels" / source_digest()[:16]
    found = sorted(folder.glob("redkeep-*.whl"))
    if not found:
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT / "app"))
        found = sorted(folder.glob("redkeep-*.whl"))
    return found[0]


@cache
def wheelhouse(python: str, architecture: str, extra: str = "") -> Path:
    """Download every wheel a host needs for its Python ("3.11.2") and architecture (Debian's name), once."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        raise ConfigurationError(f"There are no wheels for the architecture {architecture}: set package_source to index.")
    lock = locked_for(python, machine, extra=extra)
    folder = BUILD / "wheelhouse" / f"{hashlib.sha256(lock.encode()).hexdigest()[:16]}-py{python}-{machine}"
    if not (folder / ".complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK.name).write_text(lock)
        platforms = [word for glibc in _GLIBC for word in ("--platform", f"manylinux_{glibc}_{machine}")]
        _pip(
            *("download", "--only-binary=:all:", "--no-deps", "--python-version", python, "--implementation", "cp"),
            *("--platform", f"manylinux2014_{machine}", *platforms, "--require-hashes"),
            *("-r", str(folder / LOCK.name), "--dest", str(folder)),
        )
        (folder / ".complete").touch()
    return folder


def locked_for(python: str, machine: str, *, extra: str = "") -> str:
    """The lines of the lock that hold for a CPython of that version on Linux. pip itself would judge the markers by
    the operator's Python instead of the host's."""
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
    }
    kept, keep = [], True
    for line in lock_of(extra).read_text().splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            requirement, _, marker = line.rstrip(" \\").partition(" ; ")
            keep = not marker or Marker(marker).evaluate(environment)
            line = f"{requirement} \\"
        if keep:
            kept.append(line)
    return "\n".join(kept) + "\n"


def archive(python: str, architecture: str, source: str, *, extra: str = "", more: Sequence[Path] = ()) -> bytes:
    """A gzipped tar with the wheel, requirements.lock, for ``source`` "wheelhouse" the wheels of the lock, and ``more``."""
    files = [wheel(), lock_of(extra), *more]
    if source == "wheelhouse":
        folder = wheelhouse(python, architecture, extra)
        files = [wheel(), folder / LOCK.name, *sorted(folder.glob("*.whl")), *more]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for path in files:
            tar.add(path, arcname=LOCK.name if path == lock_of(extra) else path.name)
    return buffer.getvalue()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_NO_INPUT": "1"})  # nosec B603 - as above
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigurationError(f"pip {arguments[0]} failed for the package: {last}")
