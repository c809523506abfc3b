"""The log as JSON lines, written by a process of its own to a real pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_PROGRAM = """
import logging
from redkeep.monitoring.events import SecurityMonitor
from redkeep.monitoring.json_lines import log_json_lines
log_json_lines()
monitor = SecurityMonitor()
monitor.record("auth_attempt", username="x\\r\\n<0>fake\\x1b[2J\\u202e", address="10.0.0.5")
monitor.record("posture_changed", severity="error", control="login", args="%s", name="n")
logging.getLogger("redkeep.other").debug("silent")
logging.getLogger("redkeep.other").warning("raw \\x7f\\n%s", "\\u2028two")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("redkeep.other").exception("broken")
"""


def lines(*, journal: bool = False) -> list[str]:
    """What the program writes to standard error; told by the environment whether that is the journal's stream."""
    reading, writing = os.pipe()
    there = os.fstat(writing)
    environment = {**os.environ, **({"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"} if journal else {"JOURNAL_STREAM": "1:1"})}
    subprocess.run([sys.executable, "-c", _PROGRAM], stderr=writing, env=environment, check=True)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode("ascii").splitlines()


def test_a_line_a_record_whatever_strangers_type() -> None:
    """Four records, four lines of printable ASCII: event, user and details are fields, an exception is one field."""
    found = lines()
    assert all(line.isprintable() for line in found)
    first, second, third, fourth = map(json.loads, found)
    assert ("security_event", "auth_attempt", "warning", "10.0.0.5") == tuple(first[n] for n in ("message", "event", "level", "detail_address"))
    assert "x\\r\\n<0>fake" in first["user"]
    assert ("error", "%s", "n") == (second["level"], second["detail_args"], second["detail_name"])
    assert "raw \x7f\n\u2028two" == third["message"]
    assert "ZeroDivisionError" in fourth["exception"]


def test_the_journal_gets_priorities() -> None:
    """On the journal's own stream each line begins with its syslog priority."""
    assert ["<4>", "<3>", "<4>", "<3>"] == [line[:3] for line in lines(journal=True)]
