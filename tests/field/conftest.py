"""The command line in processes that need not import everything again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.commands.forkserver import Server, shared
from tests.field.tools import Field


@pytest.fixture(scope="session")
def field_server() -> Server:
    """A server that these tests share, without torch: a fork of less memory is a quick one."""
    return shared("light")


@pytest.fixture
def field(field_server: Server, tmp_path: Path) -> Field:
    """A folder of its own, and the command line."""
    return Field(field_server, tmp_path)
