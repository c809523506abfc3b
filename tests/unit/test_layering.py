"""Who may import whom, how long a module may be, and what the lock files hold."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.unit.wanted import ROOT

# From the bottom up. A layer may import itself and the ones before it; those on one level do not know each other.
LAYERS = (
    *({"errors"}, {"crypto"}, {"environment", "optimization"}, {"target"}, {"settings"}, {"access"}, {"monitoring"}, {"cache"}),
    *({"migration", "api", "dashboard", "stack"}, {"cli", "__main__"}),
)
PACKAGE = ROOT / "app" / "redkeep"
LINES = 400


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, also those not committed yet, without the ignored ones."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(ROOT / name for name in names if name and (ROOT / name).is_file())


@cache
def imports(path: Path) -> tuple[str, ...]:
    """The full names of the modules a file imports, relative ones resolved, wherever in the file."""
    package = path.relative_to(ROOT / "app" if PACKAGE in path.parents else ROOT).with_suffix("").parts
    return tuple(_imports(ast.parse(path.read_text()), package[:-1]))


def _imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def layer(module: str) -> int | None:
    """The level of redkeep.<layer>...; None for the package itself and for what is not ours."""
    parts = module.split(".")
    if parts[0] != "redkeep" or len(parts) < 2:
        return None
    return next((number for number, names in enumerate(LAYERS) if parts[1] in names), None)


MODULES = tracked("app/redkeep/*.py")
SOURCES = tracked("app/redkeep/*.py", "deploys/*.py")


def own_layer(path: Path) -> int | None:
    relative = path.relative_to(PACKAGE)
    return layer(f"redkeep.{relative.parts[0].removesuffix('.py')}")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    """A module imports its own layer and those below it."""
    mine = own_layer(path)
    if path == PACKAGE / "__init__.py":
        return
    assert mine is not None, f"{path.name}: not in LAYERS"
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    above = [
        module
        for module in imports(path)
        if (other := layer(module)) is not None and (other > mine or (other == mine and module.split(".")[1] != name))
    ]
    assert [] == above


@pytest.mark.parametrize("path", tracked("app/redkeep/*.py"), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_host_side_knows_nothing_of_the_operator_side(path: Path) -> None:
    """redkeep imports neither deploys nor pyinfra nor the tests."""
    assert not {"deploys", "pyinfra", "tests", "inventories", "group_data"} & {name.split(".")[0] for name in imports(path)}


def test_the_dashboard_speaks_to_the_api_alone() -> None:
    """It imports nothing of redkeep but itself."""
    names = {name for path in tracked("app/redkeep/dashboard/*.py") for name in imports(path) if name.startswith("redkeep")}
    assert {name for name in names if not f"{name}.".startswith("redkeep.dashboard.")} == set()


@pytest.mark.parametrize("path", tracked("tests/hosts/*.py"), ids=lambda path: path.name)
def test_the_eyes_are_independent(path: Path) -> None:
    """Checks of hosts share no code with what they check."""
    assert not {"deploys", "redkeep", "pyinfra"} & {name.split(".")[0] for name in imports(path)}


def test_deploy_code_neither_prints_nor_exits() -> None:
    """What goes wrong is raised, what is said goes through the logger."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in tracked("deploys/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "exit", "quit")
    ]
    assert [] == found


def test_nothing_is_unpickled_but_by_the_benchmark() -> None:
    """pickle runs what it reads. One function calls it, named for the danger; only the benchmark's own designs call that."""
    calls = re.compile(r"\b(?:c?pickle|dill|marshal|shelve)\.(?:loads?|open|Unpickler)\b|\bimport_module\(\W*pickle|from pickle import")
    found = [
        (path.name, line.strip())
        for path in sorted((ROOT / "app/redkeep").rglob("*.py"))
        for line in path.read_text().splitlines()
        if calls.search(line) or "_insecure_unpickle(" in line
    ]
    assert {name for name, _ in found} == {"bench_variants.py"}
    assert sum(bool(calls.search(line)) for _, line in found) == 1
    assert sum("_insecure_unpickle(" in line for _, line in found) == 3


def test_every_operation_has_a_name() -> None:
    """A call of an operation says in plain words what it does: without it pyinfra would print the arguments."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in tracked("deploys/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("converge", "mend", "prove", "drift")
        and "name" not in {keyword.arg for keyword in node.keywords}
    ]
    assert [] == found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_short(path: Path) -> None:
    """Before it has more than 400 lines it is two."""
    assert len(path.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_says_what_it_is(path: Path) -> None:
    """Each begins with a docstring; an empty __init__ needs none."""
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", tracked("*.lock"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_lock_file_has_hashes_and_no_address(path: Path) -> None:
    """Each package has at least one SHA-256, and nothing says where it comes from."""
    name, hashes = r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+( ; [^\n]+)? \\\n", r"(    --hash=sha256:[0-9a-f]{64}( \\)?(\n|$))+"
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    assert [] == [entry.split()[0] for entry in entries if not re.fullmatch(name + hashes, entry)]
    assert not re.search(r"https?:|file:|git\+|//|--index|--find-links|--trusted", path.read_text())


def test_the_locks_agree() -> None:
    """A package has the same version, or the same versions by Python's own, in all lock files of this bundle."""
    versions: dict[str, set[frozenset[str]]] = {}
    for path in (p for p in tracked("*.lock") if "scanners" not in p.parts):
        found = re.findall(r"^([a-z0-9._-]+)==(\S+)", path.read_text(), re.MULTILINE)
        for name in {name for name, _ in found}:
            versions.setdefault(name, set()).add(frozenset(version for other, version in found if other == name))
    assert {} == {name: found for name, found in versions.items() if len(found) > 1}


def test_the_operators_environment_holds_all_that_the_package_needs() -> None:
    """`.venv` of a deploy has the package without its dependencies: the deploy's own list and lock name them all, at the same versions,
    or `make status` and `make rotate` would work in the tests alone."""

    def named(path: str) -> set[str]:
        listed = tomllib.loads((ROOT / path).read_text())["project"]["dependencies"]
        return {re.split(r"[>=<]", each)[0] for each in listed}

    def pinned(path: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / path).read_text(), re.MULTILINE))

    assert named("app/pyproject.toml") - named("pyproject.toml") == set()
    package, operator = pinned("app/requirements.lock"), pinned("deploys/requirements.lock")
    assert {name: package[name] for name in named("app/pyproject.toml")}.items() - operator.items() == set()
