"""Real Debian hosts with systemd, sshd and apt, made from Debian packages alone and removed without a trace.

Run `python -m tests.lab` from the repository's root for the command line.
"""

from tests.lab.engine import LabError, Result
from tests.lab.hosts import Host, Spec
from tests.lab.inventory import render_inventory, write_inventory
from tests.lab.lab import Lab

__all__ = ["Host", "Lab", "LabError", "Result", "Spec", "render_inventory", "write_inventory"]
