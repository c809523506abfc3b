"""What the posture makes of the allow-list, from real tables in a network and a /run of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploys.rendering import render
from deploys.stages.network import FIREWALL_NOTE
from deploys.stages.proof import reach_alone_is_unknown
from redkeep.monitoring.allow_list import look
from tests.unit.needs import needs
from tests.unit.wanted import ROOT

# Redis on a private address and on every address, in turn with: nothing loaded; loaded; a rule more; the table gone; and, to an
# account that may not read the kernel's rules, loaded and nothing loaded.
SCRIPT = """
import json, os, socket, subprocess, sys
from redkeep.environment import collect
from redkeep.monitoring.reach import probe_reach
from redkeep.target import build_target

root = os.geteuid
def do(*words): subprocess.run(words, check=True)
do("ip", "link", "set", "lo", "up"); do("ip", "addr", "add", "10.9.8.7/32", "dev", "lo")
loader, note = sys.argv[1:]
found = {}
with socket.create_server(("10.9.8.7", 0)) as private, socket.create_server(("0.0.0.0", 0)) as every:
    def see(name, geteuid=root):
        os.geteuid = geteuid
        for kind, server in (("private", private), ("every", every)):
            url = f"rediss://10.9.8.7:{server.getsockname()[1]}/0"
            (control,) = probe_reach(build_target(redis_url=url, **collect({})))
            found[f"{name}, {kind}"] = [control.state, control.remedy]
    see("nothing"); do(loader); see("loaded")
    do("nft", "insert", "rule", "inet", "redkeep", "redis", "accept"); see("changed")
    do(loader); do("nft", "delete", "table", "inet", "redkeep"); see("gone")
    do(loader); see("unseen, loaded", lambda: 65534)
    os.remove(note); see("unseen, nothing", lambda: 65534)
print(json.dumps(found))
"""


@needs("nft")
def test_only_what_was_seen_is_green(tmp_path: Path) -> None:
    """The loader's own rules in the kernel are ok; changed or gone they are weak; unseen they are at best what was noted of them, and
    never enough for a Redis on every address. What is not ok has a remedy."""
    rules, loader, script = tmp_path / "rules.nft", tmp_path / "loader", tmp_path / "see.py"
    rules.write_bytes(render("etc/redkeep/firewall.nft", port=6380, clients4=["192.0.2.7"], clients6=[]))
    text = render("usr/local/sbin/redkeep-firewall", note=FIREWALL_NOTE, port=6380, subnets=[])
    loader.write_bytes(text.replace(b"/etc/redkeep/firewall.nft", str(rules).encode()))
    loader.chmod(0o755)
    script.write_text(SCRIPT)
    alone = ("unshare", "-nm") if os.geteuid() == 0 else ("unshare", "-rnm")
    command = f"mount -t tmpfs none /run && exec {sys.executable} {script} {loader} {FIREWALL_NOTE}"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "app")}
    done = subprocess.run([*alone, "sh", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert {name: state for name, (state, _) in found.items()} == {
        "nothing, private": "weak", "nothing, every": "weak",
        "loaded, private": "ok", "loaded, every": "ok",
        "changed, private": "weak", "changed, every": "weak",
        "gone, private": "weak", "gone, every": "weak",
        "unseen, loaded, private": "ok", "unseen, loaded, every": "unknown",
        "unseen, nothing, private": "unknown", "unseen, nothing, every": "weak",
    }  # fmt: skip
    assert [] == [name for name, (state, remedy) in found.items() if (state == "ok") == bool(remedy)]
    assert ["firewall = True", "redis_bind", "firewall = True", "as root"] == [
        next(word for word in ("redis_bind", "as root", "firewall = True") if word in found[name][1])
        for name in ("gone, private", "gone, every", "changed, private", "unseen, nothing, private")
    ]


def test_a_note_that_is_no_text_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not look into the kernel is told of what lies in /run, when that can be read."""
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    note = tmp_path / "note"
    assert "unseen" == look(note=note)
    note.write_bytes(b"\xff")
    assert "unseen" == look(note=note)
    note.write_text("0" * 64)
    assert "noted" == look(note=note)


@pytest.mark.parametrize(
    ("states", "alone"),
    [
        ({"network reach": "unknown", "login": "ok", "huge pages": "not applicable"}, True),
        ({"network reach": "weak", "login": "ok"}, False),
        ({"network reach": "unknown", "login": "unknown"}, False),
        ({"network reach": "ok", "login": "weak"}, False),
    ],
    ids=["it alone", "weak", "more unknown", "another"],
)
def test_a_deploy_vouches_for_what_it_compared_itself(states: dict[str, str], alone: bool) -> None:
    """An app host does not see the rules of a Redis on a public address: that alone fails no deploy, and anything else does."""
    controls = [{"name": name, "state": state} for name, state in states.items()]
    assert alone is reach_alone_is_unknown(json.dumps({"controls": controls}, indent=2).splitlines())
    assert reach_alone_is_unknown(["redkeep: no settings"]) is False
