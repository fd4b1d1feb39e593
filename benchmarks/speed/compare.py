"""Count the weights in which two checkpoints differ: `python -m benchmarks.speed.compare A B`.

The two zeros count as equal, since peers do not keep the sign of a zero.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.header import read_header

__all__ = ["differing"]

BITS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
PIECE = 1 << 22


def differing(one: Path, other: Path) -> int:
    """Return how many weights differ; the files must hold the same tensors.

    Raises:
        ValueError: They do not.
    """
    (first, base), (second, shift) = read_header(one), read_header(other)
    if first.keys() - {"__metadata__"} != second.keys() - {"__metadata__"}:
        raise ValueError("the files hold other tensors")
    a, b = np.memmap(one, np.uint8, "r"), np.memmap(other, np.uint8, "r")
    total = 0
    for name, info in first.items():
        if name == "__metadata__":
            continue
        (begin, end), kind = info["data_offsets"], BITS[info["dtype"]]
        start = second[name]["data_offsets"][0]
        for done in range(0, end - begin, PIECE):
            n = min(PIECE, end - begin - done)
            x = np.array(a[base + begin + done : base + begin + done + n]).view(kind)
            y = np.array(b[shift + start + done : shift + start + done + n]).view(kind)
            total += _differ(x, y)
    return total


def _differ(x: NDArray[np.unsignedinteger], y: NDArray[np.unsignedinteger]) -> int:
    zeros = ((x | y) << x.dtype.type(1)) == 0
    return int(((x != y) & ~zeros).sum())


if __name__ == "__main__":
    print(json.dumps({"differ": differing(Path(sys.argv[1]), Path(sys.argv[2]))}))
