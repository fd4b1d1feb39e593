"""Recipes are loaded and thrown away: their modules do not stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.training.tiny import clean_imports


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Take back what loading a recipe leaves in the interpreter."""
    with clean_imports():
        yield
