"""The dashboard: one page, fed by the API every few seconds. Streamlit runs this file; `redkeep dashboard` starts it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import streamlit as st

from redkeep.dashboard import pieces, plots, words
from redkeep.dashboard.client import ApiAway, Client, SettingsWrong

REFRESH_SECONDS: Final = 4
STATUS: Final = "/monitoring/security-status"
INTERNAL: Final = "/internal/monitoring"
_log = logging.getLogger(__name__)
_ALL: Final = "all"
_SHOWN: Final = 50
_HOLDS: Final = ":green[:material/check_circle:]"
_HOLDS_NOT: Final = ":red[:material/cancel:]"


@st.cache_resource(show_spinner=False)
def client() -> Client:
    """One for all who look. Raises SettingsWrong."""
    return Client.from_environment()


@st.cache_data(ttl=2, show_spinner=False)
def ask(path: str, **query: str | int) -> Any:
    """What the API answers, for two seconds to everybody who looks. Raises ApiAway."""
    return client().get(path, **query)


def page() -> None:
    """Lay out the page."""
    # A file of ours: Streamlit would have the browser fetch an icon of Material's from a server of others.
    st.set_page_config(page_title="Redkeep", page_icon=Path(__file__).with_name("icon.svg"), layout="wide")
    st.html(Path(__file__).with_name("style.css"))
    try:
        client()
    except SettingsWrong as error:
        st.html(pieces.hero("unset", str(error)))
        return
    with st.sidebar:
        st.markdown("### Redkeep")
        indicator()
        st.caption(f"Asks `{client().url}` every {REFRESH_SECONDS} seconds")
    answer()
    first, second, third, fourth = st.tabs(["Posture", "Activity", "Events", "Alerts"])
    with first:
        safety()
    with second:
        activity()
    with third:
        happenings()
    with fourth:
        telling()


def part(otherwise: Callable[[ApiAway], None]) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A part of the page, drawn anew every few seconds; `otherwise` is drawn when the API has not said what belongs there.

    What answers may be another version of the API, or a stranger: a document of another shape is no status either. So a part reads all
    of it before it draws anything.
    """

    def made(draw: Callable[[], None]) -> Callable[[], None]:
        @st.fragment(run_every=REFRESH_SECONDS)
        @wraps(draw)
        def drawn() -> None:
            try:
                draw()
            except ApiAway as error:
                otherwise(error)
            except (LookupError, TypeError, ValueError, AttributeError):
                _log.exception("dashboard_part_failed part=%s", draw.__name__)
                otherwise(ApiAway(f"What answers at {client().url} is not the API of this Redkeep version.", answered=True))

        return drawn

    return made


def unknown(error: ApiAway) -> None:
    """The sidebar without a status."""
    st.error(f"Unknown: the API {'returned no status' if error.answered else 'does not answer'}", icon=":material/cloud_off:")


def headless(error: ApiAway) -> None:
    """The head without a status: why, and the next step."""
    st.html(pieces.hero("mute" if error.answered else "away", str(error)))


def missing(error: ApiAway) -> None:
    """A tab without its content."""
    st.html(pieces.away(error))


@part(unknown)
def indicator() -> None:
    """The sidebar: secured or not, and why."""
    status = ask(STATUS)
    verdict, failures = words.verdict(status), status["recent_auth_failures"]
    if verdict == "ok":
        st.success("Redis Secured", icon=":material/lock:")
    elif verdict == "weak":
        st.warning("Security Issues", icon=":material/warning:")
    else:
        st.warning("Some Checks Could Not Run", icon=":material/help:")
    with st.expander("Security Details", expanded=True):
        for field, name in words.FIELDS.items():
            st.markdown(f"{_HOLDS if status[field] else _HOLDS_NOT} {name}")
        st.write(f"Refused logins in 24 h: {'not monitored' if failures is None else failures}")


@part(headless)
def answer() -> None:
    """The one answer, what lasts, and the figures that a glance is for."""
    status, figures = ask(STATUS), ask(f"{INTERNAL}/metrics")
    servers, alerts = ask(f"{INTERNAL}/nodes")["nodes"], ask(f"{INTERNAL}/alerts")
    summary = str(status["summary"]).removeprefix("redkeep: ")
    head = pieces.hero(words.verdict(status), f"{summary} · checked {words.ago(status['checked_at'])}")
    lasting = pieces.alerts(alerts["active"], "") if alerts["active"] else ""
    tiles = pieces.tiles(glance(status, figures, servers))
    for html in filter(None, (head, lasting, tiles)):
        st.html(html)


def glance(status: dict[str, Any], figures: dict[str, Any], servers: list[dict[str, Any]]) -> list[pieces.Tile]:
    """The figures that a glance is for."""
    failures = status["recent_auth_failures"]
    up = sum(server["state"] == "up" for server in servers)
    hits, misses = (sum(server.get(name) or 0 for server in servers) for name in ("hits_total", "misses_total"))
    denied = figures["rates"]["permission_denied_per_hour"]
    errors = figures["rates"]["encryption_errors_per_hour"]
    slowest = max((server["latency_ms"] for server in servers if server["latency_ms"] is not None), default=None)
    ratio = hits / (hits + misses) if hits + misses else None
    return [
        ("Refused logins", words.amount(failures), "in 24 hours", _good(failures == 0, known=failures is not None)),
        ("Refused commands", words.amount(denied), "in the last hour", _good(denied == 0)),
        ("Failed decryptions", words.amount(errors), "in the last hour", _good(errors == 0)),
        (
            "Servers up", f"{up} of {len(servers)}", "" if slowest is None else f"slowest {slowest:.1f} ms",
            _good(up == len(servers), known=all(server["state"] != "unknown" for server in servers)),
        ),
        ("Hit ratio", words.percent(ratio), "since server start", "neutral"),
        *(
            ("Next certificate", f"{each['days_left']} d", f"{each['whose']} {each.get('node') or ''}".strip(), each["state"])
            for each in status["certificates"][:1]
        ),
    ]  # fmt: skip


@part(missing)
def safety() -> None:
    """The posture, and what will end."""
    status = ask(STATUS)
    controls, ends = pieces.posture(status["posture"]), pieces.ends(status["certificates"], status["key_ages"])
    st.html(controls)
    st.markdown("##### Certificates and keys")
    st.html(ends)


@part(missing)
def activity() -> None:
    """The servers, and plots of what they refused and how fast they were."""
    history, servers = ask(f"{INTERNAL}/metrics")["history"], ask(f"{INTERNAL}/nodes")["nodes"]
    rows, refused, latencies = pieces.nodes(servers), plots.refusals(history), plots.latencies(history["latency"])
    st.html(rows)
    left, right = st.columns(2)
    with left:
        st.markdown("##### Refused per five minutes")
        st.vega_lite_chart(None, refused, width="stretch")
    with right:
        st.markdown("##### Response time, ms")
        if history["latency"]:
            st.vega_lite_chart(None, latencies, width="stretch")
        else:
            st.caption("Not monitored: the API has no REDIS_MONITOR_PASSWORD.")


@part(missing)
def happenings() -> None:
    """The last events, with filters."""
    left, right = st.columns(2)
    kind = left.selectbox("Kind", [_ALL, *words.KINDS], format_func=lambda name: words.KINDS.get(name, "all kinds"))
    severity = right.selectbox("Severity", [_ALL, "error", "warning", "info"], format_func=lambda name: "all" if name == _ALL else name)
    query = {name: value for name, value in (("kind", kind), ("severity", severity)) if value != _ALL}
    found = ask(f"{INTERNAL}/events", limit=_SHOWN, **query)["events"]
    st.html(pieces.events(found))
    if len(found) == _SHOWN:
        st.caption(f"The last {_SHOWN} events. `redkeep watch` and the API show more.")


@part(missing)
def telling() -> None:
    """Whom alerts reach, the last ones, and a test."""
    alerts = ask(f"{INTERNAL}/alerts")
    channels, recent = pieces.channels(alerts["channels"]), pieces.alerts(alerts["recent"], "None since the API started.")
    st.html(channels)
    if st.button("Send a test alert", help="Sends it through every configured channel"):
        try:
            st.session_state.deliveries = client().post(f"{INTERNAL}/alerts/test")["channels"]
        except ApiAway as error:
            st.session_state.deliveries = {"test": {"ok": False, "detail": str(error)}}
    if "deliveries" in st.session_state:
        st.html(pieces.deliveries(st.session_state.deliveries))
    st.markdown("##### Last alerts")
    st.html(recent)


def _good(holds: bool, *, known: bool = True) -> str:
    return "unknown" if not known else "ok" if holds else "weak"


if __name__ == "__main__":
    page()
