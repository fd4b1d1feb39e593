"""CRC-32, by the fastest library that is there: all give the same number."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # an extra: `pip install elsa-cli[fast]`
    from zlib import crc32

__all__ = ["crc32"]
