"""How long a deploy takes on real hosts over SSH, beside ansible-core at the same work: first runs, and repeats with nothing to do.

python -m tests.performance.bench_deploy [--hosts 1 8] [--repeats 7] [--json FILE]

Each first run begins with bare hosts. The playbook writes the very files that our deploy wrote, so that on a deployed host
neither has anything to do, and repeats of both can take turns on the same hosts; each must say that nothing changed. Seconds are those of whole
commands, the start of Python included. Other work on the machine shows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from redkeep.cli.table import render
from tests.deploys.runner import Deployment
from tests.lab.hosts import Spec
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab
from tests.performance.playbook import Playbook

Figures = dict[str, Any]


def measure(count: int, repeats: int) -> Figures:
    """Seconds of both on `count` hosts."""
    specs = [Spec(f"h{number}", ("bookworm", "trixie")[number % 2]) for number in range(count)]
    with Lab() as lab, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        hosts = lab.start_all(specs)
        data = {host.name: {"package_source": "wheelhouse"} for host in hosts}
        inventory = write_inventory(folder / "lab.py", {"redis": hosts, "app": hosts}, data=data)
        deployment = Deployment(inventory, folder / "secrets")
        ours_first = [show(count, "first run, ours", deployment.run().ok().seconds)]
        playbook = Playbook(hosts, folder)
        lab.fresh()
        theirs_first = show(count, "first run, ansible", playbook.run().seconds)
        lab.fresh()
        playbook.forget_connections()
        ours_first.append(show(count, "first run again, ours", deployment.run().ok().seconds))
        playbook.run()  # leaves what it keeps for itself
        ours, theirs = [], []
        for number in range(repeats):
            for which in random.sample(("ours", "ansible"), 2):
                if which == "ours":
                    run = deployment.run().ok()
                    assert run.changed_operations == 0, run.output
                    ours.append(run.seconds)
                else:
                    played = playbook.run()
                    assert played.changed == 0, played.output
                    theirs.append(played.seconds)
                show(count, f"repeat {number + 1} of {repeats}, {which}", (ours if which == "ours" else theirs)[-1])
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {
        "hosts": count, "load": os.getloadavg()[0],
        "first": {"ours": ours_first, "ansible": theirs_first},
        "repeat": {"ours": three(ours), "ansible": three(theirs), "ratio": three(ratios)},
    }  # fmt: skip


def three(values: list[float]) -> tuple[float, float, float]:
    """Minimum, median, maximum."""
    return min(values), statistics.median(values), max(values)


def show(count: int, what: str, seconds: float) -> float:
    """Progress; gives back the seconds."""
    print(f"{count} host{'s' if count > 1 else ''}: {what}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def table(every: list[Figures]) -> str:
    """The figures in lines."""
    rows = []
    for each in every:
        first, repeat = each["first"], each["repeat"]
        rows.append([
            str(each["hosts"]), " and ".join(f"{seconds:.1f}" for seconds in first["ours"]), f"{first['ansible']:.1f}",
            *(" ".join(f"{value:.2f}" for value in repeat[which]) for which in ("ours", "ansible", "ratio")), f"{each['load']:.1f}",
        ])  # fmt: skip
    return render(["hosts", "first, ours", "first, ansible", "repeat, ours", "repeat, ansible", "ratio", "load"], rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    every = []
    for count in arguments.hosts:
        every.append(measure(count, arguments.repeats))
        if arguments.json:
            arguments.json.write_text(json.dumps(every, indent=1) + "\n")
    print("seconds; repeats: minimum median maximum")
    print(table(every))


if __name__ == "__main__":
    main()
