"""The figures of the monitoring sent to an OpenTelemetry collector, by OTLP over HTTP (extra `otel`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from redkeep import __version__
from redkeep.errors import ConfigurationError
from redkeep.monitoring.figures import Family

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider

VARIABLE: Final = "SECURITY_MONITOR_OTLP_ENDPOINT"
_DEADLINE_SECONDS: Final = 5
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class OtlpExport:
    """Sends what `families` gives, in a thread of its own; a collector that is away is logged and harms nothing."""

    def __init__(self, endpoint: str, families: Callable[[], Sequence[Family]], *, interval: float) -> None:
        """`endpoint` is the collector's URL for metrics, as in https://collector:4318/v1/metrics; `interval` in seconds.

        `families` is called in that thread. Headers and the collector's CA come from OpenTelemetry's own variables,
        OTEL_EXPORTER_OTLP_HEADERS and OTEL_EXPORTER_OTLP_CERTIFICATE.
        Raises ConfigurationError for a URL that is not https (http to this very host is fine), or without the extra.
        """
        check_endpoint(endpoint)
        self._families = families
        self._provider = _provider(endpoint, interval)
        meter = self._provider.get_meter("redkeep", __version__)
        for family in families():
            make = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
            make(f"redkeep.{family.name}", [partial(self._observe, family.name)], description=family.text)

    def close(self) -> None:
        """Send once more and end, within five seconds."""
        self._provider.shutdown(timeout_millis=_DEADLINE_SECONDS * 1000)

    def _observe(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for family in self._families():
            if family.name == name:
                for values, number in family.rows:
                    yield Observation(number, dict(zip(family.labels, values, strict=True)))


def check_endpoint(endpoint: str) -> None:
    """Raises ConfigurationError unless it is https, or http to this very host, without credentials."""
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        usable = usable and bool(parts.hostname) and parts.port != 0 and parts.username is None and parts.password is None
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(f"{VARIABLE} must be https://host:port/v1/metrics; http only for a collector on this host")


def _provider(endpoint: str, interval: float) -> MeterProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
    except ImportError:
        raise ConfigurationError(
            f"{VARIABLE} is set, but OpenTelemetry is not installed: in Redkeep's folder run `pip install './app[otel]'`"
        ) from None
    exporter = OTLPMetricExporter(endpoint=endpoint, timeout=_DEADLINE_SECONDS)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval * 1000, export_timeout_millis=_DEADLINE_SECONDS * 1000)
    return MeterProvider([reader], resource=Resource.create({"service.name": "redkeep"}), shutdown_on_exit=False)
