"""This machine: Redis and the app side by side, on the loopback address. The embedded default."""

redis = ["@local"]
app = ["@local"]
