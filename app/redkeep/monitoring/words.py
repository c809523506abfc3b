"""Words of strangers: user names, client names and error texts, made harmless before they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

NAME_LENGTH: Final = 64
"""Characters kept of a name; our own are shorter (access/acl.py), and a longer one is not worth a page."""

TEXT_LENGTH: Final = 300
_SHORTEST_SECRET: Final = 8
_ELLIPSIS: Final = "…"


def harmless(text: str | bytes, *, limit: int = NAME_LENGTH) -> str:
    """The text without anything a terminal, a log, a mail header or a page could act upon but its letters.

    What is not printable (line ends, escapes, direction marks) becomes its escape, bytes that are no UTF-8 too; what is
    longer than `limit` characters is cut and ends in an ellipsis. Markup such as `<b>` stays as text: whoever puts it into
    a page or a chat message escapes it there.
    """
    if isinstance(text, bytes):
        text = text[: limit * 8].decode("utf-8", "backslashreplace")
    text = text[: limit * 2]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + _ELLIPSIS


def listed(names: Sequence[str], *, most: int) -> str:
    """`a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


class Redactor:
    """Takes our own secrets out of strangers' words: people type passwords where the user name belongs."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str | None]) -> None:
        """Secrets shorter than 8 characters are not looked for: they would be found in every text."""
        self._secrets = sorted({each for each in secrets if each and len(each) >= _SHORTEST_SECRET}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "[REDACTED]")
        if text.endswith(_ELLIPSIS):
            kept = text[:-1]
            for secret in self._secrets:  # `harmless` may have cut within one
                left = next((n for n in range(len(secret) - 1, _SHORTEST_SECRET - 1, -1) if kept.endswith(secret[:n])), 0)
                if left:
                    return f"{kept[:-left]}[REDACTED]{_ELLIPSIS}"
        return text

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"
