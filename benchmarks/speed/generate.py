"""Write a checkpoint like a small language model's, a piece at a time.

`python -m benchmarks.speed.generate FILE DTYPE BYTES SEED`: a separate process, for its numpy.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.header import encode_header
from benchmarks.speed.results import ITEMSIZE

__all__ = ["generate", "shapes"]

PIECE = 1 << 20  # weights drawn at a time


def shapes(weights: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of at least `weights` weights, a tenth or a little more embedding.

    Layers have grouped queries, a gated feed-forward part and two norms, as current models do.
    """
    width = 1024 if weights >= 50_000_000 else 256
    inner, few = width * 11 // 4, width // 4
    per_layer = 2 * width * width + 2 * few * width + 3 * inner * width + 2 * width
    layers = max(1, int(0.9 * weights) // per_layer)
    words = max(64, math.ceil((weights - layers * per_layer) / width))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    for n in range(layers):
        layer = f"model.layers.{n}"
        found |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.mlp.down_proj.weight": (width, inner),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.self_attn.k_proj.weight": (few, width),
            f"{layer}.self_attn.o_proj.weight": (width, width),
            f"{layer}.self_attn.q_proj.weight": (width, width),
            f"{layer}.self_attn.v_proj.weight": (few, width),
        }
    return found


def generate(path: Path, dtype: str, size: int, seed: int) -> None:
    """Write a safetensors file of about `size` bytes, not less.

    Matrices are normal, each with a scale between 0.01 and 0.04; norms are near one.

    Args:
        path: The file.
        dtype: `bf16` or `fp32`.
        size: Bytes.
        seed: Seed for the weights.
    """
    item = ITEMSIZE[dtype]
    plan = dict(sorted(shapes(math.ceil(size / item)).items()))
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(encode_header(plan, item))
        for shape in plan.values():
            numel = math.prod(shape)
            scale = np.float32(0.01 * 4.0 ** rng.random())
            for start in range(0, numel, PIECE):
                draw = rng.standard_normal(min(PIECE, numel - start), dtype=np.float32)
                draw *= scale
                if len(shape) == 1:
                    draw += np.float32(1)
                file.write((_bfloat16(draw) if dtype == "bf16" else draw).data)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest even; return the raw bits."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


if __name__ == "__main__":
    generate(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
