"""Fixtures of the system tests: a product that is ended, and checked for what it left, whatever the test did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness import Product


@pytest.fixture
async def product(tmp_path: Path) -> AsyncIterator[Product]:
    """A configured product with its two origins running; the test starts it."""
    made = Product(tmp_path)
    for origin in made.origins.values():
        await origin.start()
    made.configure()
    try:
        yield made
        await made.end()
    finally:
        made.destroy()
        for origin in made.origins.values():
            await origin.stop()
