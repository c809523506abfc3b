"""The dashboard: one page, fed by the API every few seconds. Streamlit runs this file; `redkeep dashboard` starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import streamlit as st

from redkeep.dashboard import pieces, plots, words
from redkeep.dashboard.client import ApiAway, Client, SettingsWrong

REFRESH_SECONDS: Final = 4
STATUS: Final = "/monitoring/security-status"
INTERNAL: Final = "/internal/monitoring"
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
        st.html(pieces.hero("away", str(error)))
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


@st.fragment(run_every=REFRESH_SECONDS)
def indicator() -> None:
    """The sidebar: secured or not, and why."""
    try:
        status = ask(STATUS)
    except ApiAway:
        st.error("Not known: the API does not answer", icon=":material/cloud_off:")
        return
    fields = {
        "Authentication": status["redis_authenticated"],
        "TLS encryption": status["tls_enabled"],
        "Data encryption": status["encryption_enabled"],
        "Network isolation": status["network_isolated"],
    }
    if all(fields.values()) and status["state"] == "ok":
        st.success("Redis Secured", icon=":material/lock:")
    else:
        st.warning("Security Issues", icon=":material/warning:")
    with st.expander("Security Details", expanded=True):
        for name, holds in fields.items():
            st.markdown(f"{_HOLDS if holds else _HOLDS_NOT} {name}")
        failures = status["recent_auth_failures"]
        st.write(f"Refused logins in 24 h: {'not watched' if failures is None else failures}")


@st.fragment(run_every=REFRESH_SECONDS)
def answer() -> None:
    """The one answer, what lasts, and the figures that a glance is for."""
    try:
        status, figures = ask(STATUS), ask(f"{INTERNAL}/metrics")
        servers, alerts = ask(f"{INTERNAL}/nodes")["nodes"], ask(f"{INTERNAL}/alerts")
    except ApiAway as error:
        st.html(pieces.hero("away", str(error)))
        return
    summary = str(status["summary"]).removeprefix("redkeep: ")
    st.html(pieces.hero(status["state"], f"{summary} · checked {words.ago(status['checked_at'])}"))
    if alerts["active"]:
        st.html(pieces.alerts(alerts["active"], ""))
    st.html(pieces.tiles(glance(status, figures, servers)))


def glance(status: dict[str, Any], figures: dict[str, Any], servers: list[dict[str, Any]]) -> list[pieces.Tile]:
    """The figures that a glance is for."""
    failures = status["recent_auth_failures"]
    up = sum(server["state"] == "up" for server in servers)
    ratios = [server["hit_ratio"] for server in servers if server.get("hit_ratio") is not None]
    denied = figures["rates"]["permission_denied_per_hour"]
    errors = figures["rates"]["encryption_errors_per_hour"]
    slowest = max((server["latency_ms"] for server in servers if server["latency_ms"] is not None), default=None)
    ratio = sum(ratios) / len(ratios) if ratios else None
    return [
        ("Refused logins", words.amount(failures), "in 24 hours", _good(failures == 0, known=failures is not None)),
        ("Refused calls", words.amount(denied), "in the last hour", _good(denied == 0)),
        ("Values that failed", words.amount(errors), "in the last hour", _good(errors == 0)),
        (
            "Servers up", f"{up} of {len(servers)}", "" if slowest is None else f"slowest {slowest:.1f} ms",
            _good(up == len(servers), known=all(server["state"] != "unknown" for server in servers)),
        ),
        ("Hit ratio", words.percent(ratio), "since its start", "neutral"),
        *(("Next certificate", f"{each['days_left']} d", str(each["whose"]), each["state"]) for each in status["certificates"][:1]),
    ]  # fmt: skip


@st.fragment(run_every=REFRESH_SECONDS)
def safety() -> None:
    """The posture, and what will end."""
    try:
        status = ask(STATUS)
    except ApiAway as error:
        st.html(pieces.away(error))
        return
    st.html(pieces.posture(status["posture"]))
    st.markdown("##### Certificates and keys")
    st.html(pieces.ends(status["certificates"], status["key_ages"]))


@st.fragment(run_every=REFRESH_SECONDS)
def activity() -> None:
    """The servers, and plots of what they refused and how fast they were."""
    try:
        history, servers = ask(f"{INTERNAL}/metrics")["history"], ask(f"{INTERNAL}/nodes")["nodes"]
    except ApiAway as error:
        st.html(pieces.away(error))
        return
    st.html(pieces.nodes(servers))
    left, right = st.columns(2)
    with left:
        st.markdown("##### Refused in five minutes")
        st.vega_lite_chart(None, plots.refusals(history), width="stretch")
    with right:
        st.markdown("##### Answer time, ms")
        if history["latency"]:
            st.vega_lite_chart(None, plots.latencies(history["latency"]), width="stretch")
        else:
            st.caption("Nobody watches: the API has no REDIS_MONITOR_PASSWORD.")


@st.fragment(run_every=REFRESH_SECONDS)
def happenings() -> None:
    """The last events, with filters."""
    left, right = st.columns(2)
    kind = left.selectbox("Kind", [_ALL, *words.KINDS], format_func=lambda name: words.KINDS.get(name, "all kinds"))
    severity = right.selectbox("Severity", [_ALL, "error", "warning", "info"], format_func=lambda name: "all" if name == _ALL else name)
    query = {name: value for name, value in (("kind", kind), ("severity", severity)) if value != _ALL}
    try:
        found = ask(f"{INTERNAL}/events", limit=_SHOWN, **query)["events"]
    except ApiAway as error:
        st.html(pieces.away(error))
        return
    st.html(pieces.events(found))
    if len(found) == _SHOWN:
        st.caption(f"The last {_SHOWN}. `redkeep watch` and the API have more.")


@st.fragment(run_every=REFRESH_SECONDS)
def telling() -> None:
    """Whom alerts reach, the last ones, and a test."""
    try:
        alerts = ask(f"{INTERNAL}/alerts")
    except ApiAway as error:
        st.html(pieces.away(error))
        return
    st.html(pieces.channels(alerts["channels"]))
    if st.button("Send a test alert", help="Through every channel that is configured"):
        try:
            st.session_state.deliveries = client().post(f"{INTERNAL}/alerts/test")["channels"]
        except ApiAway as error:
            st.session_state.deliveries = {"test": {"ok": False, "detail": str(error)}}
    if "deliveries" in st.session_state:
        st.html(pieces.deliveries(st.session_state.deliveries))
    st.markdown("##### Last alerts")
    st.html(pieces.alerts(alerts["recent"], "None since the API started."))


def _good(holds: bool, *, known: bool = True) -> str:
    return "unknown" if not known else "ok" if holds else "weak"


if __name__ == "__main__":
    page()
