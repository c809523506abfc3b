"""The operator's machine dies in the middle of a deploy: the same command again makes the host whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploys.hoststate import leftovers, settled
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

NAME = "killed"
MARK = "--> Starting operation: "


@dataclass(frozen=True)
class Kill:
    """When: ``milliseconds`` after the line that announces the operation."""

    operation: str
    milliseconds: int = 0

    def __str__(self) -> str:
        return f"{self.operation} +{self.milliseconds} ms"


# In the order of a run. The second number is about the middle of the operation on a quiet machine; 0 where it is over
# before a signal could arrive.
OPERATIONS = {
    "Install the packages": (400, 2000),
    "Write the kernel settings": (40,),
    "Apply the kernel settings": (),
    "Rotate the server's log": (),
    "Make the server's folders": (40,),
    "Give root on the host the operator's access": (60,),
    "Install the certificates": (60,),
    "Write the configuration and the users": (80, 250),
    "Write the sandbox": (60,),
    "Write the allow-list of hosts": (),
    "Load the allow-list of hosts": (),
    "Start the service": (60, 300),
    "Apply the users to the running server": (),
    "Apply the settings to the running server": (),
    "Remove certificates no longer in use": (),
    "Write the daily check of the certificates": (60,),
    "Start the daily check of the certificates": (40,),
    "Make the app's group": (),
    "Install the package": (300, 1500, 5000),
    "Write the app's credentials": (40,),
    "Prove an encrypted write and read, and every control": (100,),
}
EVERY = [Kill(name, delay) for name, delays in OPERATIONS.items() for delay in (0, *delays)]
SHORT = [
    Kill("Install the packages", 2000),
    Kill("Write the configuration and the users", 250),
    Kill("Start the service", 0),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kill" in metafunc.fixturenames:
        metafunc.parametrize("kill", EVERY if metafunc.config.getoption("--soak") else SHORT, ids=str)


def run_and_kill(deployment: Deployment, kill: Kill, verb: str = "secure_redis", *arguments: str) -> list[str]:
    """Start a verb, SIGKILL its whole process group at the given moment, and return the lines it had printed."""
    process = deployment.start(verb, *arguments)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith(MARK) and kill.operation in line:
                time.sleep(kill.milliseconds / 1000)
                break
        else:
            raise AssertionError(f"the run ended before {kill}:\n{''.join(lines)}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return lines


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of secrets for all runs, so that even keys and certificates are the same."""
    return tmp_path_factory.mktemp("same") / "secrets"


@pytest.fixture(scope="module")
def undisturbed(single: Callable[..., Deployment], secrets: Path, lab: Lab) -> list[str]:
    """The host after a run that nobody killed."""
    single(NAME, secrets=secrets).run().ok()
    host = lab[NAME]
    assert leftovers(host) == []
    return settled(host)


@pytest.fixture
def bare(undisturbed: list[str], single: Callable[..., Deployment], secrets: Path) -> Iterator[Deployment]:
    """The same host, bare again."""
    yield single(NAME, secrets=secrets)


def compare(host: Host, undisturbed: list[str]) -> None:
    """Fail with what is more and what is less than after an undisturbed run."""
    now = settled(host)
    more, less = sorted(set(now) - set(undisturbed)), sorted(set(undisturbed) - set(now))
    assert (more, less) == ([], [])
    assert leftovers(host) == []


def test_the_same_command_again_makes_the_host_whole(
    kill: Kill, bare: Deployment, undisturbed: list[str], lab: Lab
) -> None:
    """Killed there, with whatever still runs on the host, the next run succeeds at once, and files, users, settings,
    units and packages are those of an undisturbed run; nothing temporary is left."""
    run_and_kill(bare, kill)
    bare.run().ok()
    compare(lab[NAME], undisturbed)
    assert bare.run("status").ok().drift == {}
