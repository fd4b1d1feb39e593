"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time, and none fails for being slow.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("ci")
