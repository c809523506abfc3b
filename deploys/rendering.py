"""Templates: the folder templates/ mirrors the host, and a name that is not given is an error."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parent.parent


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # These are configuration files of root's making, not pages; values are validated before they come here.
        autoescape=False,  # noqa: S701 # nosec B701 - see above
    )


def render(template: str, **values: Any) -> bytes:
    """The text of ``templates/<template>.j2``. Raises jinja2.UndefinedError for a name that is not given."""
    return _environment().get_template(f"{template}.j2").render(values).encode()
