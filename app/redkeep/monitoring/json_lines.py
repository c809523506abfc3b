"""The log as JSON lines on standard error: what a service's journal keeps, one object a record, safe to read anywhere."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

_OWN: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"))
"""What every record has (`color_message`: uvicorn's); anything else came by `extra`."""

_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3): err, warning, info; the rest is 7, debug."""


class JsonLines(logging.Formatter):
    """One line of ASCII a record: `time`, `level`, `logger`, `message`, then its extra fields, and `exception` if there is one.

    Whatever is not printable ASCII stands as a JSON escape, so no name that a stranger chose ends a line or reaches a terminal.
    """

    def __init__(self, *, priorities: bool = False) -> None:
        """`priorities` puts `<3>`, `<4>`, ... before each line, which systemd's journal takes off (sd-daemon(3))."""
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"), "level": record.levelname.lower(),
            "logger": record.name, "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }  # fmt: skip
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        line = json.dumps(document, default=str).replace("\x7f", "\\u007f")
        return f"<{_priority(record.levelno)}>{line}" if self._priorities else line


def log_json_lines(*, level: int = logging.INFO) -> None:
    """Write every record of this process from `level` on to standard error, as JSON lines; for programs, not for libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(priorities=_is_journal(sys.stderr.fileno())))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def _is_journal(descriptor: int) -> bool:
    """Whether it is the stream that systemd opened to its journal: device and inode are in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        there = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"
