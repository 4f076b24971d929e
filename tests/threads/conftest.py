"""Fixtures of the tests of both pools and all protocols."""

from services import directories, generated, make, pool

__all__ = ["directories", "generated", "make", "pool"]
