"""The page's pieces as HTML: from the API's documents to text in which every value is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from redkeep.dashboard import words

Document = Mapping[str, Any]
Tile = tuple[str, str, str, str]
"""Name, value, a note below, and the state that colours it."""

_ORDER: Final = {"weak": 0, "unknown": 1, "ok": 2, "not applicable": 3}
_HEROES: Final = {
    "ok": ("✓", "Redis is secured"),
    "weak": ("!", "Security issues"),
    "unknown": ("?", "Some checks could not run"),
    "away": ("×", "The API does not answer"),
    "mute": ("×", "The API returned no status"),
    "unset": ("×", "The dashboard cannot ask the API"),
}
_QUOTED: Final = re.compile(r"`([^`]+)`")
_SEVERITIES: Final = {"error": "weak", "warning": "unknown", "info": "ok"}


def text(value: object) -> str:
    """Any value as text that cannot be markup."""
    return escape(str(value), quote=True)


def prose(value: object) -> str:
    """A sentence as text that cannot be markup, with what it has in backticks as code."""
    return _QUOTED.sub(r"<code>\1</code>", text(value))


def hero(state: str, line: str) -> str:
    """The answer in large letters, and one line below it."""
    sign, title = _HEROES.get(state, _HEROES["unknown"])
    return (
        f'<section class="rk-hero rk-{text(state)}" role="status"><span class="rk-sign" aria-hidden="true">{sign}</span>'
        f"<div><h1>{title}</h1><p>{prose(line)}</p></div></section>"
    )


def away(error: Exception) -> str:
    """Instead of what cannot be shown; the page's head says more."""
    return f'<p class="rk-none" role="alert">Not shown. {prose(error)}</p>'


def tiles(figures: Iterable[Tile]) -> str:
    """Figures side by side."""
    each = (
        f'<div class="rk-tile rk-{text(state)}"><span>{text(name)}</span><b>{text(value)}</b><small>{text(note)}</small></div>'
        for name, value, note, state in figures
    )
    return f'<div class="rk-tiles">{"".join(each)}</div>'


def posture(controls: Sequence[Document]) -> str:
    """Every control, the weak ones first and with what to do."""
    rows = sorted(controls, key=lambda control: _ORDER.get(control["state"], 1))
    return _list(
        (
            control["state"],
            f"<b>{text(control['name'])}</b><em>{text(control['group'])}</em>",
            _finding(control),
            words.STATES.get(control["state"], str(control["state"])),
        )
        for control in rows
    )


def events(found: Sequence[Document]) -> str:
    """Events, latest first."""
    if not found:
        return _empty("No matching events.")
    return _list(
        (
            _SEVERITIES.get(event["severity"], "unknown"),
            f"<b>{text(words.kind(dict(event)))}</b>" + (f"<em>× {event['count']}</em>" if event["count"] > 1 else ""),
            _change(event["details"]) if event["type"] == "posture_changed" else " · ".join(_event_details(event)),
            words.ago(event["timestamp"]),
        )
        for event in found
    )


def nodes(found: Sequence[Document]) -> str:
    """Each server with its own figures."""
    return _list(
        (
            {"up": "ok", "down": "weak"}.get(node["state"], "unknown"),
            f"<b>{text(node['node'])}</b><em>{text(node.get('role') or '')}</em>",
            text(node["reason"]) if node["state"] != "up" else _node_details(node),
            f"{node['state']} {words.span(node['uptime_seconds'])}" if node.get("uptime_seconds") and node["state"] == "up" else node["state"],
        )
        for node in found
    )


def ends(certificates: Sequence[Document], keys: Sequence[Document]) -> str:
    """Certificates with the days left, and keys with their ages."""
    rows = [
        (
            each["state"],
            f"<b>{text(each['whose'])}</b><em>certificate</em>",
            f"expires {text(str(each['ends'])[:10])}" + (f" · {text(each['node'])}" if each.get("node") else ""),
            f"{words.days(each['days_left'])} left",
        )
        for each in certificates
    ]
    rows += [
        (
            "ok",
            f"<b>{text(key['key_id'])}</b><em>key</em>",
            f"{'encrypts and decrypts' if key['primary'] else 'only decrypts'}, seen here since {text(str(key['first_seen'])[:10])}",
            f"{words.days(key['age_days'])} old",
        )
        for key in keys
    ]
    return _list(rows) if rows else _empty("No certificates or keys are known.")


def alerts(found: Sequence[Document], none: str) -> str:
    """Alerts, or the sentence that there are none."""
    if not found:
        return _empty(none)
    states = {"firing": "weak", "resolved": "ok"}
    return _list(
        (
            states.get(alert["state"], "unknown"),
            f"<b>{text(alert['title'])}</b><em>{text(alert['state'])}</em>",
            prose(alert["message"]),
            words.ago(alert["timestamp"]),
        )
        for alert in found
    )


def channels(found: Sequence[Document]) -> str:
    """The ways to people, and how the last deliveries went."""
    return _list(
        (
            "not applicable" if not each["enabled"] else "weak" if each.get("last_error") else "ok",
            f"<b>{text(each['name'])}</b>",
            text(each.get("last_error") or (f"last delivery {words.ago(each['last_delivered'])}" if each.get("last_delivered") else "")),
            "not configured" if not each["enabled"] else f"{each['delivered']} delivered" if "delivered" in each else "always on",
        )
        for each in found
    )


def deliveries(found: Mapping[str, Document]) -> str:
    """What became of a test in each channel."""
    return _list(
        ("ok" if each["ok"] else "weak", f"<b>{text(name)}</b>", text(each["detail"]), "delivered" if each["ok"] else "failed")
        for name, each in found.items()
    )


def _finding(control: Document) -> str:
    """What was found, and below it what to do."""
    remedy = control.get("remedy")
    return prose(control.get("evidence", "")) + (f"<mark>{prose(remedy)}</mark>" if remedy else "")


def _change(details: Document) -> str:
    """Which control changed, of several nodes on which, from what to what, and what was found then; `before` is empty for one that is new."""
    states = (words.STATES.get(details[name], str(details[name])) for name in ("before", "state") if details.get(name))
    where = f" on {text(details['node'])}" if details.get("node") else ""
    return f"<b>{text(details['control'])}</b>{where}: {text(' → '.join(states))} · {_finding(details)}"


def _event_details(event: Document) -> Iterable[str]:
    if event["username"] is not None:
        yield f"<code>{text(event['username'])}</code>"
    for name, value in event["details"].items():
        if value not in (None, ""):
            yield f"{text(name.replace('_', ' '))} <code>{text(value)}</code>"


def _node_details(node: Document) -> str:
    limit = node.get("memory_limit_bytes")
    found = (
        f"{node.get('engine') or ''} {node.get('version') or ''}".strip(),
        f"{words.size(node.get('memory_used_bytes'))}" + (f" of {words.size(limit)}" if limit else ""),
        f"{words.amount(node.get('keys'))} keys",
        f"{words.amount(node.get('clients'))} clients",
        f"{words.amount(node.get('operations_per_second'))} commands/s",
        f"hits {words.percent(node.get('hit_ratio'))}",
    )
    return " · ".join(f"<span>{text(each)}</span>" for each in found if each)


def _list(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """State, name and body as HTML of ours, and a note as text."""
    each = (
        f'<li class="rk-{text(state).replace(" ", "-")}"><div class="rk-name">{name}</div><div class="rk-body">{body}</div>'
        f'<div class="rk-note">{text(note)}</div></li>'
        for state, name, body, note in rows
    )
    return f'<ul class="rk-list">{"".join(each)}</ul>'


def _empty(sentence: str) -> str:
    return f'<p class="rk-none">{text(sentence)}</p>'
