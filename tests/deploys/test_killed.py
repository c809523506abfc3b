"""The operator's machine dies in the middle of a deploy: the same command again makes the host whole."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploys.difference import ManagedFile, encode, locked, place
from deploys.facts.survey import LOCK
from deploys.stages.service import COMMAND_SCRIPT
from deploys.stages.wanted import CLI
from tests.deploys.crash import MARK, Kill, run_and_kill
from tests.deploys.hoststate import differences, leftovers, settled
from tests.deploys.runner import Deployment
from tests.lab.hosts import Host
from tests.lab.lab import Lab

NAME = "killed"


# In the order of a run. The second number is about the middle of the operation on a quiet machine; 0 where it is over
# before a signal could arrive.
OPERATIONS = {
    "Install the packages": (400, 2000),
    "Write the kernel settings": (40,),
    "Apply the kernel settings": (),
    "Rotate the server's log": (),
    "Accept new passwords": (),
    "Create the server's folders": (40,),
    "Give root on the host the operator's login": (60,),
    "Install the certificates": (60,),
    "Write the configuration and the users": (80, 250),
    "Write the operator's command": (40,),
    "Write the container's health check": (),
    "Remove unused data": (),
    "Write the sandbox": (60,),
    "Remove the other runtime": (),
    "Write the allow-list of hosts": (),
    "Load the allow-list of hosts": (),
    "Start the service": (60, 300),
    "Apply the users to the running server": (),
    "Apply the settings to the running server": (),
    "Remove certificates no longer in use": (),
    "Write the daily check of the certificates": (60,),
    "Start the daily check of the certificates": (40,),
    "Create the app's group": (),
    "Install the package": (300, 1500, 5000),
    "Write the app's credentials": (40,),
    "Remove the API": (),
    "Verify an encrypted write and read, and every control": (100,),
}
EVERY = [Kill(name, delay) for name, delays in OPERATIONS.items() for delay in (0, *delays)]
# Beside a crash in each operation one after the other: dpkg at work.
SHORT = [Kill("Install the packages", 2000)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "delay" in metafunc.fixturenames:
        metafunc.parametrize("delay", (0, 40, 120, 400) if metafunc.config.getoption("--soak") else (40,))
    if "kill" in metafunc.fixturenames:
        metafunc.parametrize("kill", EVERY if metafunc.config.getoption("--soak") else SHORT, ids=str)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of secrets for all runs, so that even keys and certificates are the same."""
    return tmp_path_factory.mktemp("same") / "secrets"


@pytest.fixture(scope="module")
def undisturbed(single: Callable[..., Deployment], secrets: Path, lab: Lab) -> list[str]:
    """The host after a run that nobody killed, in which there were the operations that this file knows."""
    run = single(NAME, secrets=secrets).run().ok()
    assert re.findall(rf"^{MARK}[^|]+\| (.*\S)", run.output, re.MULTILINE) == list(OPERATIONS)
    host = lab[NAME]
    assert leftovers(host) == []
    return settled(host)


@pytest.fixture
def bare(undisturbed: list[str], single: Callable[..., Deployment], secrets: Path) -> Deployment:
    """The same host, bare again."""
    return single(NAME, secrets=secrets)


def compare(host: Host, undisturbed: list[str]) -> None:
    """Fail with what is more and what is less than after an undisturbed run."""
    wrong = differences(undisturbed, settled(host))
    assert not wrong, "\n".join(wrong)
    assert leftovers(host) == []


def test_the_same_command_again_makes_the_host_whole(kill: Kill, bare: Deployment, undisturbed: list[str], lab: Lab) -> None:
    """Killed there, with whatever still runs on the host, the next run succeeds at once, and files, users, settings,
    units and packages are those of an undisturbed run; nothing temporary is left."""
    run_and_kill(bare, kill)
    bare.run().ok()
    compare(lab[NAME], undisturbed)
    assert bare.run("status").ok().drift == {}


def test_a_crash_in_every_operation_one_after_the_other(delay: int, bare: Deployment, undisturbed: list[str], lab: Lab) -> None:
    """One host, killed in its first operation, then in its second, and so on to the last: a run that nobody kills then
    ends in the same state."""
    for name in OPERATIONS:
        run_and_kill(bare, Kill(name, delay))
    bare.run().ok()
    compare(lab[NAME], undisturbed)
    assert bare.run("status").ok().drift == {}


def shell(script: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-c", f"set -eu\n{script}"], input=stdin, capture_output=True, timeout=20)


def test_a_file_that_arrives_cut_short_is_not_put_in_place(tmp_path: Path) -> None:
    """The operator's side dies while it sends: whatever part of a file came, what is in place stays, and nothing else."""
    me = (pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name)
    file = ManagedFile(str(tmp_path / "users.acl"), b"user default off\n" * 20, owner=me[0], group=me[1], mode="0600")
    Path(file.path).write_bytes(b"old")
    sent = encode(file.content).encode()
    for length in (0, 4, 76, 77, 200, len(sent) - 20):
        assert shell(place(file), sent[:length]).returncode != 0
        assert Path(file.path).read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["users.acl"]
    assert shell(place(file), sent).returncode == 0
    assert Path(file.path).read_bytes() == file.content


def test_a_script_cleans_up_after_its_listener_is_gone(tmp_path: Path) -> None:
    """sshd closes the pipes of a dead session: a script that says why it fails still removes its temporary file."""
    me = (pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name)
    file = ManagedFile(str(tmp_path / "folder" / "users.acl"), b"user default off\n", owner=me[0], group=me[1], mode="0600")
    (tmp_path / "folder").mkdir()
    script = locked(place(file)).replace(LOCK, str(tmp_path / "lock"))
    process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
    process.stdin.close()
    assert process.wait(timeout=20) != 0
    assert list((tmp_path / "folder").iterdir()) == []


def test_what_a_power_cut_left_goes_with_the_next_run(tmp_path: Path) -> None:
    """A temporary file of a host that died is removed when a file is next written beside it."""
    me = (pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name)
    file = ManagedFile(str(tmp_path / "users.acl"), b"user default off\n", owner=me[0], group=me[1], mode="0600")
    (tmp_path / ".redkeep.a1B2c3D4").write_bytes(b"half")
    assert shell(place(file), encode(file.content).encode()).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["users.acl"]


def test_a_command_is_given_to_redis_whole_and_its_refusal_is_heard(tmp_path: Path) -> None:
    """Half an ACL SETUSER could be a user with more rights: it is the whole line or nothing. What Redis refuses fails, in its words."""
    given = tmp_path / "given"
    script = COMMAND_SCRIPT.replace(CLI, f"sh -c 'cat > {given}; grep -q refused {given} && echo ERR no || echo OK'")
    whole = b'ACL "SETUSER" "monitor" "reset" "on" "%R~x\\\\y" "-@all"\n'
    for text in (script, f"{script} 2>&1 || exit 3"):
        for length in (0, 10, len(whole) - 1):
            assert shell(text, whole[:length]).returncode != 0
            assert not given.exists()
        assert shell(text, whole).returncode == 0
        assert given.read_bytes() == whole
        given.unlink()
    refused = shell(script, b"CONFIG SET refused 1\n")
    assert (refused.returncode != 0, refused.stderr) == (True, b"ERR no\n")


@pytest.mark.soak
def test_two_deploys_at_once_do_not_disturb_each_other(
    undisturbed: list[str], single: Callable[..., Deployment], secrets: Path, lab: Lab, soak: bool
) -> None:
    """Two operators press the button at the same moment, on a bare host: one script runs at a time, both succeed, and
    the host is as after a single deploy."""
    deployment = single(NAME, secrets=secrets)
    runs = [deployment.start(), deployment.start()]
    for run in runs:
        output, _ = run.communicate(timeout=900)
        assert run.returncode == 0, output
    compare(lab[NAME], undisturbed)
    assert deployment.run("status").ok().drift == {}


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    """What a script starts and leaves running does not hold the lock; the script's own exit code is kept."""
    script = locked("sleep 30 >/dev/null 2>&1 & echo $!; exit 3").replace(LOCK, str(tmp_path / "lock"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20)
    try:
        assert done.returncode == 3
        assert subprocess.run(["flock", "-n", str(tmp_path / "lock"), "true"]).returncode == 0
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)
