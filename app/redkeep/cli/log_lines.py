"""Log records as JSON, one line each, for the journal: whatever a stranger typed cannot begin a line of its own."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLine(logging.Formatter):
    """`{"time": ..., "level": "warning", "logger": "redkeep...", "message": ..., <the record's extra fields>}`, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _KNOWN},
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


def log_to_stderr() -> None:
    """Send every record of this process, from "info" on, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
