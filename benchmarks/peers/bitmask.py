"""The sparse-bitmask format of compressed-tensors.

`python -m benchmarks.peers.bitmask compress|decompress IN OUT`
"""

from __future__ import annotations

import json
import sys
import time

from compressed_tensors.compressors.sparse_compressors.sparse_bitmask import BitmaskCompressor
from safetensors.torch import load_file, save_file

from benchmarks.peers.prunable import is_prunable


def compress(source: str, target: str) -> dict[str, float]:
    """Compress the matrices of a sparse checkpoint.

    Returns:
        Seconds of the call, `call`, and of all but imports, `work`.
    """
    start = time.perf_counter()
    state = load_file(source)
    targets = {name.removesuffix(".weight") for name in state if is_prunable(name, state[name])}
    begin = time.perf_counter()
    compressed = BitmaskCompressor().compress(state, targets)
    call = time.perf_counter() - begin
    save_file(compressed, target, {"format": "pt"})
    return {"call": call, "work": time.perf_counter() - start}


def decompress(source: str, target: str) -> dict[str, float]:
    """Undo it; returns the same, but the call reads the file itself."""
    begin = time.perf_counter()
    state = dict(BitmaskCompressor().decompress(source))
    call = time.perf_counter() - begin
    save_file(state, target, {"format": "pt"})
    return {"call": call, "work": time.perf_counter() - begin}


if __name__ == "__main__":
    does = {"compress": compress, "decompress": decompress}[sys.argv[1]]
    print(json.dumps(does(sys.argv[2], sys.argv[3])))
