"""How long a deploy takes on real hosts over SSH: the first run, and repeats that have nothing to do.

python -m tests.performance.converge [--hosts 8] [--repeats 7]

Prints the seconds of whole pyinfra commands, Python's start included, as JSON. Other work on the machine shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from tests.deploys.runner import Deployment
from tests.lab.hosts import Spec
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    specs = [Spec(f"h{n}", ("bookworm", "trixie")[n % 2]) for n in range(arguments.hosts)]
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        hosts = lab.start_all(specs)
        data = {host.name: {"package_source": "wheelhouse"} for host in hosts}
        inventory = write_inventory(Path(folder) / "lab.py", {"redis": hosts, "app": hosts}, data=data)
        deployment = Deployment(inventory, Path(folder) / "secrets")
        first = deployment.run().ok()
        repeats = []
        for _ in range(arguments.repeats):
            run = deployment.run().ok()
            assert run.changed_operations == 0, run.output
            repeats.append(run.seconds)
    figures = {"minimum": min(repeats), "median": statistics.median(repeats), "maximum": max(repeats)}
    print(json.dumps({"hosts": arguments.hosts, "first": round(first.seconds, 2), "repeat": {k: round(v, 2) for k, v in figures.items()}}))


if __name__ == "__main__":
    main()
