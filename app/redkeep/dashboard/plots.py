"""The plots, as Vega-Lite specifications: what the servers refused, and how long they took to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

HEIGHT: Final = 220
SERIES: Final = {"auth_failures": ("logins", "#dc2626"), "permission_denied": ("commands", "#d97706")}
_SHORT_SECONDS: Final = 300
"""Five marks on a shorter axis would name a minute twice."""

_LEGEND: Final = {"orient": "top", "title": None}


def refusals(history: Mapping[str, Any]) -> dict[str, Any]:
    """Bars, stacked: how many logins and commands the servers refused in each step of the history."""
    rows = [
        {"time": point["time"], "refused": name, "count": point["count"]} for series, (name, _) in SERIES.items() for point in history[series]
    ]
    most = max((sum(point["count"] for point in points) for points in zip(*(history[series] for series in SERIES), strict=False)), default=0)
    names, colours = zip(*SERIES.values(), strict=True)
    return _plot(
        rows,
        {"type": "bar", "width": 5},
        y={
            "field": "count", "type": "quantitative", "title": None, "axis": {"format": "d", "tickMinStep": 1, "tickCount": 4},
            "scale": {"domain": [0, max(4, most)]},
        },
        colour={"field": "refused", "type": "nominal", "legend": _LEGEND, "scale": {"domain": list(names), "range": list(colours)}},
        tooltip=["refused", "count"],
    )  # fmt: skip


def latencies(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lines: milliseconds of INFO, one for each node; while they are of a few minutes, the axis has seconds."""
    moments = sorted(datetime.fromisoformat(point["time"]) for point in points)
    short = bool(moments) and (moments[-1] - moments[0]).total_seconds() < _SHORT_SECONDS
    return _plot(
        [dict(point) for point in points],
        {"type": "line", "interpolate": "monotone", "point": len(points) < 3},
        clock="%H:%M:%S" if short else "%H:%M",
        y={"field": "milliseconds", "type": "quantitative", "title": None, "scale": {"domainMin": 0}},
        colour={"field": "node", "type": "nominal", "legend": _LEGEND},
        tooltip=["node", "milliseconds"],
    )


def _plot(
    rows: list[dict[str, Any]], mark: dict[str, Any], *, y: Any, colour: Any, tooltip: Sequence[str], clock: str = "%H:%M"
) -> dict[str, Any]:
    time = {"field": "time", "type": "temporal", "title": None, "axis": {"format": clock, "tickCount": 5, "labelOverlap": True}}
    shown = [{"field": "time", "type": "temporal", "format": clock}, *({"field": name} for name in tooltip)]
    return {
        "height": HEIGHT,
        "data": {"values": rows},
        "mark": mark,
        "encoding": {"x": time, "y": y, "color": colour, "tooltip": shown},
    }
