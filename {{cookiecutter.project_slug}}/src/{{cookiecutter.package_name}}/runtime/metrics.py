"""What handlers import: the metrics that `server.counter` and `server.gauge` return."""

from .ipc.metrics import Counter, Gauge

__all__ = ["Counter", "Gauge"]
