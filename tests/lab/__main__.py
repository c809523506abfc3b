"""`python -m tests.lab`: hosts to try a deploy on by hand."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from tests.lab import engine, image
from tests.lab.engine import LabError
from tests.lab.hosts import Spec
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab, all_ids


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--id", default="dev", help="which lab (default: dev)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start hosts h1, h2, ... that are not there yet; write an inventory")
    up.add_argument("--suite", choices=image.SUITES, default="bookworm")
    up.add_argument("--hosts", type=int, default=1, help="how many (default: 1)")
    up.add_argument("--docker", action="store_true", help="with a volume for a nested Docker engine")
    up.add_argument("--no-init", action="store_true", help="plain containers without systemd")
    verbs.add_parser("list", help="list the lab's hosts")
    enter = verbs.add_parser("ssh", help="enter a host")
    enter.add_argument("name", help="h1, or operator@h1")
    enter.add_argument("command", nargs=argparse.REMAINDER)
    fresh = verbs.add_parser("fresh", help="reset hosts to bare (all without a name)")
    fresh.add_argument("names", nargs="*")
    down = verbs.add_parser("down", help="remove the lab")
    down.add_argument("--all", action="store_true", help="every lab on the engine, of whoever made it")
    verbs.add_parser("build", help="build both images when absent")
    verbs.add_parser("clean", help="remove the lab, unused images, and end the engine if the lab started it")
    return parser


def _list(lab: Lab) -> None:
    for host in sorted(lab.hosts.values(), key=lambda host: host.name):
        state = engine.docker("inspect", "--format", "{{.State.Status}}", host.container)
        kind = "systemd" if host.spec.init else "plain"
        print(f"{host.name:10} {host.spec.suite:9} {kind:8} {host.address:15} {state}")


def _up(lab: Lab, arguments: argparse.Namespace) -> None:
    names = [f"h{n}" for n in range(1, arguments.hosts + 1)]
    init = not arguments.no_init
    lab.start_all(Spec(name, arguments.suite, init, arguments.docker) for name in names if name not in lab.hosts)
    inventory = write_inventory(lab.folder / "inventory.py", {"redis": lab.hosts.values()})
    _list(lab)
    print(f"inventory: {inventory}\nssh: ssh -F {lab.access.ssh_config} NAME")


def _down(lab_id: str) -> None:
    lab = Lab(lab_id)
    count = len(lab.hosts)
    lab.destroy()
    print(f"removed lab {lab_id}: {count} hosts")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 1 with a sentence on standard error when the lab cannot do it."""
    arguments = _parser().parse_args(argv)
    begun = time.monotonic()
    try:
        match arguments.verb:
            case "up":
                _up(Lab(arguments.id), arguments)
            case "list":
                _list(Lab(arguments.id))
            case "ssh":
                lab = Lab(arguments.id)
                if arguments.name.rpartition("@")[2] not in lab.hosts:
                    raise LabError(f"no host {arguments.name!r}: `list` names them")
                argv = ["ssh", "-F", str(lab.access.ssh_config), arguments.name, *arguments.command]
                return subprocess.call(argv)
            case "fresh":
                Lab(arguments.id).fresh(*arguments.names)
            case "down":
                engine.ensure()
                if arguments.all:
                    for lab_id in all_ids():
                        _down(lab_id)
                else:
                    _down(arguments.id)
            case "build":
                engine.ensure()
                print("\n".join(image.build_all().values()))
            case "clean":
                _down(arguments.id)
                print("removed images:", " ".join(image.remove_all()) or "none")
                print("ended the engine" if engine.end() else "left the engine as it is")
    except (LabError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.verb in {"up", "build", "fresh"}:
        print(f"{time.monotonic() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
