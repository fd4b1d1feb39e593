"""CRC-32, by the fastest library that is there: all give the same number."""

from __future__ import annotations

import zlib
from collections.abc import Callable

__all__ = ["crc32"]

# Called with bytes, and with the CRC-32 of those before them.
crc32: Callable[..., int] = zlib.crc32
try:
    from isal import isal_zlib
except ImportError:  # an extra: `pip install elsa-cli[fast]`
    pass
else:
    crc32 = isal_zlib.crc32
