"""What handlers import: the worker that `worker_init` gets."""

from .pool.worker import Worker

__all__ = ["Worker"]
