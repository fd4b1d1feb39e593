"""Headers of safetensors files, read and written without the package that is measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["encode_header", "read_header"]

NAMES = {2: "BF16", 4: "F32"}


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a file, and the byte at which its data begins."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        found: dict[str, Any] = json.loads(file.read(size))
    return found, 8 + size


def encode_header(shapes: Mapping[str, tuple[int, ...]], itemsize: int) -> bytes:
    """Return all that stands before the data of tensors that follow one another.

    Args:
        shapes: Shape of each tensor, in the order of their data.
        itemsize: Bytes of a weight: 2 is bfloat16, 4 is float32.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * itemsize
        header[name] = {"dtype": NAMES[itemsize], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
