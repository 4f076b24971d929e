"""What handlers import: the metrics that `server.counter` and `server.gauge` return."""

from .process.metrics import Counter, Gauge

__all__ = ["Counter", "Gauge"]
