"""A migration that is killed anywhere, meets a full disk, or is begun twice: run again it is done, or undone, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from deploys.facts.survey import LOCK
from deploys.migration.window import HOLDER
from redkeep.migration.stages import NAMES
from tests.deploys.crash import MARK, kill_after, kill_at
from tests.deploys.hoststate import differences, leftovers
from tests.deploys.runner import Deployment, Run
from tests.deploys.stock import contents, fill, found, install, run_id, settle, standing
from tests.lab.hosts import Host
from tests.lab.lab import Lab

pytestmark = pytest.mark.soak

MOMENTS = 50
# What is left of the disk, in pages: where it fills up.
PAGES = (0, 1, 2, 4, 9)
# A small disk that has what a migration writes to, but for the clock's and the kernel's own folders.
SMALL = """systemctl stop redis-server
mkdir /small; mount -t tmpfs -o size=600m tmpfs /small
for d in /etc /opt /usr/local /var/lib; do
    mkdir -p /small$d; cp -a $d/. /small$d; chmod --reference=$d /small$d; mount --bind /small$d $d
done
systemctl daemon-reload; systemctl start redis-server
for i in $(seq 50); do redis-cli PING 2>/dev/null | grep -q PONG && exit 0; sleep 0.1; done; exit 1"""
FULL = "free=$(df --output=avail -B1 /small | tail -1); head -c $((free - {pages} * 4096)) /dev/zero > /small/filler"
ROOM = "rm -f /small/filler"
OTHERS = (
    "is running this migration",
    "run of this migration has just begun",
    "has taken over this migration",
    "since this run began",
)


@dataclass
class Way:
    """One host and its state before."""

    site: Deployment
    host: Host
    before: list[str]
    keys: str

    @property
    def done(self) -> int:
        """The number of stages done."""
        return len(standing(self.host).done)

    def run(self, verb: str) -> Run:
        """Run a verb, which must succeed; every key is there, and before all stages everything is as it was."""
        run = self.site.run(verb).ok()
        self.same()
        return run

    def same(self) -> None:
        """Nothing of value is lost; without a stage, nothing of the host is changed."""
        assert contents(self.host) == self.keys
        if not standing(self.host).started:
            assert differences(self.before, found(self.host)) == []
            assert leftovers(self.host) == []

    def settle(self, stages: int) -> None:
        """To that number of stages done, and nothing is lost."""
        settle(self.site, self.host, stages)
        self.same()

    def all_the_way(self) -> None:
        """To the end, where a deploy finds nothing to do, and all the way back."""
        self.settle(len(NAMES))
        assert self.site.run().ok().changed_operations == 0
        assert leftovers(self.host) == []
        self.settle(0)


@pytest.fixture
def way(request: pytest.FixtureRequest, single: Callable[..., Deployment], lab: Lab) -> Way:
    """Debian's stock server with a thousand keys, on a host of the test's own."""
    site = single("way")
    host = lab["way"]
    install(host)
    if getattr(request, "param", ""):
        host.check(request.param)
    keys = fill(host)
    return Way(site, host, found(host), keys)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Counter[str]]:
    """What was counted, printed at the end for the documents."""
    counted: Counter[str] = Counter()
    yield counted
    with capsys.disabled():
        print(f"\n{dict(counted)}")


def test_killed_at_every_operation(way: Way, told: Counter[str]) -> None:
    """SIGKILL at the beginning of every operation of every stage, on the way forward and back, each on what the one before
    has left: the run that nobody kills succeeds, every key is there, and at the end everything is as it was."""
    for verb, end in (("migrate", len(NAMES)), ("rollback", 0)):
        while way.done != end:
            number = 0
            while kill_at(way.site, number, verb):
                number += 1
                told[verb] += 1
            way.same()
            told["stages"] += 1


def test_killed_at_random_moments(way: Way, told: Counter[str]) -> None:
    """Fifty kills, anywhere in a stage, forward and back: after each, the same command succeeds, or the other one undoes it."""
    chance, spans = random.Random(7), dict[str, dict[str, float]]()  # noqa: S311 - moments, not secrets
    verb, other = "migrate", "rollback"
    while told["kills"] < MOMENTS:
        stage = f"{verb} {way.done}"
        killed = kill_after(way.site, chance.random(), spans.setdefault(stage, {}), verb)
        told["kills" if killed else "over before"] += 1
        if killed:
            then = verb if chance.random() < 0.75 else other
            told[f"{verb}, then {then}"] += 1
            way.run(then)
        else:
            way.same()
        if way.done in (0, len(NAMES)):
            verb, other = ("migrate", "rollback") if way.done == 0 else ("rollback", "migrate")
    way.all_the_way()


@pytest.mark.parametrize("way", [SMALL], indirect=True, ids=["small"])
def test_the_disk_is_full(way: Way, told: Counter[str]) -> None:
    """Each stage, forward and back, with no byte left on the disk and with a few: it says so or succeeds, the server goes
    on with every key, and with room again the same command succeeds, or the other one undoes it."""
    chance = random.Random(7)  # noqa: S311 - moments, not secrets
    for verb, other, end in (("migrate", "rollback", len(NAMES)), ("rollback", "migrate", 0)):
        while way.done != end:
            was = way.done
            for pages in PAGES:
                way.host.check(FULL.format(pages=pages))
                run = way.site.run(verb)
                way.host.check(ROOM)
                told[f"{verb}: {'refused' if run.code else 'done'}"] += 1
                assert contents(way.host) == way.keys
                if not run.code:
                    way.same()
                    break
                assert "Traceback" not in run.output
                assert "make room" in run.output, run.output
                if chance.random() < 0.3:
                    told["undone with room again"] += 1
                    way.run(other)
                    way.run(verb)
                    if way.done != was:
                        break
            else:
                way.run(verb)
                told[f"{verb}: done with room again"] += 1
    way.same()
    way.all_the_way()


def test_two_at_once(way: Way, told: Counter[str]) -> None:
    """The same command twice, and one against the other, at the same moment: whoever comes second stops with a sentence or
    finds the work done; a stage is never skipped, and every key is there."""
    chance = random.Random(7)  # noqa: S311 - moments, not secrets

    def pair(*verbs: str) -> None:
        runs = []
        for verb in verbs:
            runs.append(way.site.start(verb))
            # The second one looks at the host when the first one is anywhere between its beginning and its end.
            time.sleep(chance.choice((0, 1, 2, 3, 4)))
        outputs = [run.communicate(timeout=300)[0] for run in runs]
        for run, output in zip(runs, outputs, strict=True):
            told["succeeded" if run.returncode == 0 else "stopped"] += 1
            assert run.returncode == 0 or any(sentence in output for sentence in OTHERS), output
        assert any(run.returncode == 0 for run in runs), outputs
        way.same()

    for stages in range(1, len(NAMES) + 1):
        pair("migrate", "migrate")
        way.settle(stages)
        pair(*chance.sample(("migrate", "rollback"), 2))
        way.settle(stages)
    assert way.site.run().ok().changed_operations == 0
    for stages in reversed(range(len(NAMES))):
        pair("rollback", "rollback")
        way.settle(stages)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_run_that_was_silent_for_too_long_is_taken_over(way: Way, share: float) -> None:
    """Stopped in the middle (a laptop asleep) while another does its stage and undoes it: awake again it changes nothing more."""
    for stage in NAMES:
        count = 0
        sleeper = way.site.start("migrate")
        assert sleeper.stdout is not None
        wanted = max(1, round(share * (20 if stage == "close" else 6)))
        for line in sleeper.stdout:
            count += line.startswith(MARK)
            if count == wanted:
                break
        os.killpg(sleeper.pid, signal.SIGSTOP)
        try:
            # What it had begun on the host ends by itself.
            way.host.check(f"flock -w 120 {LOCK} touch -c -d '61 seconds ago' {HOLDER}")
            way.run("migrate")
            way.run("rollback")
            process, state = run_id(way.host), found(way.host)
        finally:
            os.killpg(sleeper.pid, signal.SIGCONT)
        output = sleeper.communicate(timeout=300)[0]
        assert sleeper.returncode != 0, output
        assert any(sentence in output for sentence in OTHERS), output
        assert run_id(way.host) == process
        assert differences(state, found(way.host)) == []
        way.same()
        way.run("migrate")
    way.all_the_way()
