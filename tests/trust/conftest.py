"""Fixtures of the tests of both pools and all protocols."""

from services import directories, generated, make, pool
from trust_client import prepare
from trust_process import place

__all__ = ["directories", "generated", "make", "place", "pool", "prepare"]
