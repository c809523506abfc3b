"""What the monitoring's routes answer, as OpenAPI documents it. Moments are ISO 8601 with a zone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from redkeep.monitoring.control import State
from redkeep.monitoring.events import EventType, Severity

Whole = Literal["ok", "weak", "unknown"]
Value = str | int | float | bool | None


class ControlState(BaseModel):
    """One thing that must hold, and what a probe of the live system found."""

    name: str
    state: State
    evidence: str
    remedy: str = Field(description="The next step; empty when there is nothing to do")
    group: str = Field(description="login, TLS, rights, data, network, files or host")


class KeyAge(BaseModel):
    """An encryption key of the ring, by its id."""

    key_id: str
    primary: bool = Field(description="True for the key that encrypts; the others only decrypt")
    first_seen: str = Field(description="When this monitoring first saw it in use")
    age_days: int


class CertificateEnd(BaseModel):
    """When a certificate ends."""

    whose: str = Field(description="server, client or CA")
    node: str | None = Field(description="host:port of the server; null for the others, which are the same for all nodes")
    ends: str
    days_left: int
    seconds_left: int
    state: Literal["ok", "weak"]


class SecurityStatus(BaseModel):
    """Five answers, each true only when it was seen to hold on the live system; then all that they stand on."""

    redis_authenticated: bool
    tls_enabled: bool
    encryption_enabled: bool
    network_isolated: bool
    recent_auth_failures: int | None = Field(description="Refused logins of any client in 24 hours; null without REDIS_MONITOR_PASSWORD")
    state: Whole = Field(description="The worst state of any control")
    summary: str
    checked_at: str
    posture: list[ControlState]
    key_ages: list[KeyAge]
    certificates: list[CertificateEnd] = Field(description="Sorted by expiry, the next one first")


class Event(BaseModel):
    """What happened. Names of strangers are escaped and cut to 64 characters."""

    type: EventType
    severity: Severity
    success: bool
    timestamp: str
    username: str | None
    details: dict[str, Value]
    count: int = Field(description="How many identical events this one stands for")


class Events(BaseModel):
    """The latest first."""

    events: list[Event]


class LoginSummary(BaseModel):
    """Logins that the servers refused, and those of this process."""

    total_attempts: int
    success_rate_percent: float
    recent_failures: int = Field(description="In the last hour")


class CipherSummary(BaseModel):
    """Cipher operations of this process's cache."""

    total_operations: int
    error_count: int
    recent_errors: int = Field(description="In the last hour")


class ClientSummary(BaseModel):
    """Clients of all nodes."""

    active_count: int


class SecuritySummary(BaseModel):
    """Counters since the start of the process."""

    authentication: LoginSummary
    encryption: CipherSummary
    connections: ClientSummary
    events: dict[str, int] = Field(description="By severity")


class Rates(BaseModel):
    """Of the last hour."""

    auth_failures_per_hour: int
    permission_denied_per_hour: int
    encryption_errors_per_hour: int
    connection_failures_per_hour: int


class Total(BaseModel):
    """Events of one kind since the beginning of the state file."""

    kind: EventType
    success: bool
    count: int


class Count(BaseModel):
    """How many from `time` on, for one step."""

    time: str
    count: int


class Latency(BaseModel):
    """How long INFO took."""

    node: str
    time: str
    milliseconds: float


class History(BaseModel):
    """For plots: six hours of counts, one hour of latencies."""

    step_seconds: int
    auth_failures: list[Count]
    permission_denied: list[Count]
    latency: list[Latency]


class SecurityMetrics(BaseModel):
    """The figures of the monitoring."""

    summary: SecuritySummary
    rates: Rates
    totals: list[Total]
    history: History


class NodeState(BaseModel):
    """A node as its own INFO and CLIENT LIST describe it; absent where it has not answered yet."""

    node: str = Field(description="host:port")
    state: Literal["up", "down", "unknown"]
    since: str | None
    reason: str
    latency_ms: float | None = Field(description="Of the last INFO")
    engine: Literal["redis", "valkey"] | None = None
    version: str | None = None
    role: str | None = None
    uptime_seconds: int | None = None
    clients: int | None = None
    clients_limit: int | None = None
    clients_by_user: dict[str, int] | None = None
    memory_used_bytes: int | None = None
    memory_limit_bytes: int | None = Field(default=None, description="null means no limit")
    operations_per_second: int | None = None
    commands_total: int | None = None
    connections_total: int | None = None
    connections_rejected_total: int | None = None
    hits_total: int | None = None
    misses_total: int | None = None
    hit_ratio: float | None = Field(default=None, description="Share of lookups that were hits since the server started, 0 to 1")
    evicted_total: int | None = None
    expired_total: int | None = None
    keys: int | None = None
    replicas: int | None = None
    link_to_primary: str | None = None
    errors: dict[str, int] | None = Field(default=None, description="Error replies by code")


class Nodes(BaseModel):
    """All nodes that are watched."""

    nodes: list[NodeState]


class AlertView(BaseModel):
    """An alert."""

    id: str
    timestamp: str
    title: str
    message: str
    severity: str
    kind: str
    state: Literal["firing", "resolved", "test"]
    host: str
    details: dict[str, Value]


class ChannelView(BaseModel):
    """A channel and what became of its deliveries since the start of the process."""

    name: str
    enabled: bool
    delivered: int | None = None
    failed: int | None = None
    last_delivered: str | None = None
    last_error: str | None = None


class Alerts(BaseModel):
    """The alerts that last, with what is the case now, and the last ones as they were sent, latest first."""

    thresholds: dict[str, int]
    cooldown_seconds: int
    channels: list[ChannelView]
    active: list[AlertView]
    recent: list[AlertView]


class Delivery(BaseModel):
    """What became of a test in one channel."""

    ok: bool
    detail: str = Field(description="Why it was not delivered")


class AlertTest(BaseModel):
    """By channel."""

    channels: dict[str, Delivery]


class CacheHealth(BaseModel):
    """The cache of this process."""

    status: Literal["healthy", "degraded"]
    latency_ms: float | None
    breaker: str
    reason: str | None


class MonitoringPart(BaseModel):
    """The monitoring itself."""

    status: Literal["healthy", "degraded"]
    watching: bool = Field(description="Whether a password for reading the servers' logs is set")
    nodes_up: int
    nodes: int


class Components(BaseModel):
    """What the health stands on."""

    cache: CacheHealth
    monitoring: MonitoringPart


class MonitoringHealth(BaseModel):
    """Whether what monitors works; the security status says whether we are safe."""

    status: Literal["healthy", "degraded"]
    timestamp: str
    components: Components


class OlderKey(BaseModel):
    """Who still has the key before, while a rotation lasts."""

    accepted: bool = Field(description="Whether the older key is still valid")
    watched_seconds: float = Field(description="How long this process has known both keys")
    requests: int
    seconds_since_last: float | None = Field(description="null: not used in that time")
    callers: dict[str, int] = Field(description="Requests by address, 32 addresses at most")
