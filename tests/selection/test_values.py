"""What values tell: buffers that a program computed on the one side, weights on the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from elsa_cli.selection import values
from elsa_cli.selection.naming import real_dims
from elsa_cli.selection.roles import tell
from elsa_cli.selection.values import computed, equal
from elsa_cli.storage.container import Container
from tests.helpers import FLOATS, encode_floats, write_safetensors

Floats = NDArray[np.float64]
BROAD = ("F64", "F32", "F16", "BF16")


def seen(path: Path, array: NDArray[Any], dtype: str = "F32", *, named: bool = False) -> str | None:
    """Return what `computed` says of an array."""
    data = encode_floats(dtype, np.asarray(array, np.float64).reshape(-1)).tobytes()
    write_safetensors(path / "m", [("t", dtype, array.shape, data)])
    with Container(path / "m") as container:
        (tensor,) = container.tensors
        return computed(container, tensor, named=named)


# -- Buffers ------------------------------------------------------------------------------------


def vaswani(length: int, width: int) -> Floats:
    """Attention Is All You Need: sines and cosines by turns."""
    angle = np.arange(length)[:, None] * 10000 ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, width)


def halves(length: int, width: int) -> Floats:
    """fairseq, Whisper: sines first, then cosines."""
    steps = np.exp(-math.log(10000) * np.arange(width // 2) / (width // 2 - 1))
    angle = np.arange(length)[:, None] * steps
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


def rotary(length: int, width: int) -> Floats:
    """Llama: the cosines of every angle, twice."""
    angle = np.arange(length)[:, None] * 10000 ** (-np.arange(0, width, 2) / width)
    return np.asarray(np.cos(np.concatenate([angle, angle], 1)))


def of_grid(side: int, width: int) -> Floats:
    """MAE, DiT: half of the width for rows, half for columns; (1, side * side, width)."""
    rows, columns = np.mgrid[:side, :side].reshape(2, -1)
    table = halves(side, width // 2)
    return np.concatenate([table[columns], table[rows]], 1)[None]


def of_image(side: int, width: int) -> Floats:
    """DETR-like: (width, side, side)."""
    half = width // 2
    table = vaswani(side, half).T
    rows = np.broadcast_to(table[:, :, None], (half, side, side))
    columns = np.broadcast_to(table[:, None, :], (half, side, side))
    return np.concatenate([rows, columns])


def hann(size: int) -> Floats:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size), np.float64)


def dft(size: int, *, window: bool) -> Floats:
    """STFT as a convolution: (size + 2, 1, size), the real parts first."""
    angle = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size
    basis = np.concatenate([np.cos(angle), -np.sin(angle)])
    return (basis * hann(size) if window else basis)[:, None, :]


def mel(bands: int, bins: int) -> Floats:
    """Triangles that widen, (bands, bins)."""
    high = 2595 * math.log10(1 + 8000 / 700)
    edges = 700 * (10 ** (np.linspace(0, high, bands + 2) / 2595) - 1)
    hertz = np.linspace(0, 8000, bins)
    low, middle, top = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    up, down = (hertz - low) / (middle - low), (top - hertz) / (top - middle)
    return np.asarray(np.maximum(0, np.minimum(up, down)) * 2 / (top - low))


def distances(size: int) -> Floats:
    return np.asarray(np.arange(size)[:, None] - np.arange(size)[None, :], np.float64)


def alibi(heads: int, size: int) -> Floats:
    slopes = 2.0 ** (-8 * (1 + np.arange(heads)) / heads)
    return np.asarray(slopes[:, None, None] * -np.abs(distances(size)))


def masked(fill: float, size: int = 64, ones: float = 0) -> Floats:
    """Return a causal mask with what it adds."""
    return np.where(np.tri(size) > 0, ones, fill)[None, None]


def windows(count: int, size: int) -> Floats:
    """Return the masks of Swin's shifted windows, 0 and -100."""
    parts = np.random.default_rng(0).integers(0, 3, (count, size))
    return np.where(parts[:, :, None] == parts[:, None, :], 0.0, -100.0)


BUFFERS: dict[str, Floats] = {
    "tril": np.tri(64)[None, None],
    "tril of 8": np.tri(8),
    "tril of 4": np.tri(4),
    "triu": np.tri(64).T,
    "tril of 2,048": np.tri(2048)[None, None],
    "ones": np.ones((8, 8)),
    "-inf": masked(-np.inf),
    "-100": masked(-100),
    "-10000": masked(-10000),
    "shifted windows": windows(16, 49),
    "decay": np.where(np.tri(64) > 0, 0.97 ** distances(64), 0),
    "decay of 1,024": np.where(np.tri(1024) > 0, 0.99 ** distances(1024), 0),
    "decay of heads": np.tri(32) * 0.9 ** np.abs(distances(32)) * np.array([1, 0.5])[:, None, None],
    "causal ALiBi": np.where(np.tri(64) > 0, alibi(4, 64), -np.inf),
    "causal ALiBi of 1,024": np.where(np.tri(1024) > 0, alibi(1, 1024), -np.inf),
    "vaswani": vaswani(512, 64),
    "vaswani (1, n, d)": vaswani(5000, 200)[None],
    "vaswani (n, 1, d)": vaswani(5000, 200)[:, None],
    "vaswani, wide": vaswani(48, 5120),
    "vaswani, short": vaswani(10, 32),
    "halves": halves(1500, 384),
    "rotary": rotary(2048, 64),
    "2-D": of_grid(14, 192),
    "2-D, small": of_grid(8, 32),
    "2-D image": of_image(16, 64),
    "grid": np.mgrid[:20, :20].astype(np.float64),
    "grid (n, 2)": np.mgrid[:20, :20].reshape(2, -1).T.astype(np.float64),
    "grid of halves": np.mgrid[:20, :20].reshape(2, -1).T + 0.5,
    "grid (1, n, n, 2)": np.stack(np.meshgrid(np.arange(40.0), np.arange(40.0)), -1)[None],
    "grid -1 to 1": np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 2), -1)[None],
    "grid of 3": np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 3, indexing="ij")),
    "line": np.linspace(0, 1, 64).reshape(1, 64) * np.ones((4, 1)),
    "mel (80, 201)": mel(80, 201),
    "mel (201, 80)": mel(80, 201).T,
    "mel (128, 1025)": mel(128, 1025),
    "mel (1, 40, 257)": mel(40, 257)[None],
    "dft": dft(64, window=False),
    "dft, Hann": dft(64, window=True),
    "dft, Hann, large": dft(1024, window=True),
    "distances": distances(64),
    "distances of 900": distances(900),
    "alibi": alibi(8, 64),
    "alibi (heads, 1, n)": alibi(8, 64)[:, :1],
}


@pytest.mark.parametrize("dtype", BROAD)
@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_that_was_computed(name: str, dtype: str, tmp_path: Path) -> None:
    assert seen(tmp_path, BUFFERS[name], dtype) is not None


@pytest.mark.parametrize("dtype", BROAD)
@pytest.mark.parametrize("size", [4, 64, 300])
def test_a_mask_of_the_lowest_float(size: int, dtype: str, tmp_path: Path) -> None:
    lowest = {"F16": -65504.0, "BF16": -3.3895313892515355e38}.get(
        dtype, -float(np.finfo({"F32": np.float32}.get(dtype, np.float64)).max)
    )
    assert seen(tmp_path, masked(lowest, size), dtype) is not None


@pytest.mark.parametrize("name", ["vaswani", "halves", "rotary", "2-D", "grid", "alibi", "decay"])
def test_a_buffer_that_was_rounded_before(name: str, tmp_path: Path) -> None:
    """Computed in bfloat16, stored in float32."""
    bits = encode_floats("BF16", BUFFERS[name].reshape(-1)).astype(np.uint32) << np.uint32(16)
    array = bits.view(np.float32).reshape(BUFFERS[name].shape)
    assert seen(tmp_path, array) is not None
    if name in PROGRESSIONS:
        assert seen(tmp_path, array, named=True) is not None


PROGRESSIONS = [
    *("vaswani", "vaswani (1, n, d)", "vaswani (n, 1, d)", "vaswani, wide", "halves", "rotary"),
    *("2-D image", "dft", "dft, Hann", "distances", "grid (1, n, n, 2)", "grid -1 to 1"),
]


@pytest.mark.parametrize("dtype", BROAD)
@pytest.mark.parametrize("name", PROGRESSIONS)
def test_a_progression_under_the_name_of_a_weight(name: str, dtype: str, tmp_path: Path) -> None:
    assert seen(tmp_path, BUFFERS[name], dtype, named=True) is not None


# -- Weights ------------------------------------------------------------------------------------

SHAPES = [(8, 8), (2, 8), (8, 2), (16, 4), (32, 32), (64, 3), (9, 100), (16, 1, 9), (8, 4, 3, 3)]
SHAPES += [(4, 8, 16), (200, 300), (64, 64, 3, 3), (600, 700), (4, 5000), (5000, 4), (1, 8, 8)]
Rng = np.random.Generator


def kaiming(rng: Rng, shape: tuple[int, ...]) -> Floats:
    bound = math.prod(shape[1:]) ** -0.5
    return rng.uniform(-bound, bound, shape)


def low_rank(rng: Rng, shape: tuple[int, ...]) -> Floats:
    rows, columns = shape[0], math.prod(shape[1:])
    return (rng.standard_normal((rows, 1)) @ rng.standard_normal((1, columns))).reshape(shape)


def orthogonal(rng: Rng, shape: tuple[int, ...]) -> Floats:
    size = max(shape[0], math.prod(shape[1:]))
    size = min(size, 300)
    found = np.linalg.qr(rng.standard_normal((size, size)))[0].reshape(-1)
    return np.resize(found, math.prod(shape)).reshape(shape)


def sparse(share: float) -> Callable[[Rng, tuple[int, ...]], Floats]:
    return lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) >= share)


def offset(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Values that lie close together, far from zero."""
    return 1 + 0.001 * rng.standard_normal(shape)


def heavy(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Small values beside a few outliers, as language models have."""
    found = rng.standard_normal(shape) * 0.01
    found.reshape(-1)[rng.integers(0, found.size, 1 + found.size // 1000)] = 30
    return found


def outlying(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Outliers in one whole row, so that each column has a large value."""
    found = rng.standard_normal(shape) * 0.001
    found.reshape(real_dims(shape))[0] = 5
    return found


def positive(rng: Rng, shape: tuple[int, ...]) -> Floats:
    return np.abs(rng.standard_normal(shape))


WEIGHTS: dict[str, Callable[[Rng, tuple[int, ...]], Floats]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape) * 0.02,
    "kaiming": kaiming,
    "low rank": low_rank,
    "orthogonal": orthogonal,
    "sparse 50": sparse(0.5),
    "sparse 90": sparse(0.9),
    "offset": offset,
    "heavy": heavy,
    "outlying": outlying,
    "positive": positive,
}


@pytest.mark.parametrize("dtype", BROAD)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_not_computed(
    shape: tuple[int, ...], kind: str, dtype: str, tmp_path: Path
) -> None:
    if dtype == "BF16" and kind == "offset":
        pytest.skip("has five values in BF16; the test under a weight's name has it")
    for seed in range(4):
        array = WEIGHTS[kind](np.random.default_rng(seed), shape)
        assert seen(tmp_path, array, dtype) is None


@pytest.mark.parametrize("kind", ["normal", "kaiming", "sparse 90"])
def test_small_weights_of_many_seeds(kind: str, tmp_path: Path) -> None:
    for seed in range(300):
        for shape in ((8, 8), (2, 8), (4, 4), (16, 8)):
            array = WEIGHTS[kind](np.random.default_rng(seed), shape)
            if np.count_nonzero(array) > values.FEW:
                assert seen(tmp_path, array) is None, (seed, shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.99, 0.999])
def test_very_sparse_weights(share: float, shape: tuple[int, ...], tmp_path: Path) -> None:
    for seed in range(20):
        assert seen(tmp_path, sparse(share)(np.random.default_rng(seed), shape)) is None


def dirac(rng: Rng, shape: tuple[int, ...]) -> Floats:
    found = np.zeros(shape)
    for at in range(min(shape[0], shape[1])):
        found[(at, at, *(size // 2 for size in shape[2:]))] = 1
    return found


def quantised(levels: int) -> Callable[[Rng, tuple[int, ...]], Floats]:
    def make(rng: Rng, shape: tuple[int, ...]) -> Floats:
        found = rng.standard_normal(shape)
        step = np.abs(found).max() / max(1, levels // 2)
        return np.asarray(np.round(found / step) * step)

    return make


NAMED: dict[str, Callable[[Rng, tuple[int, ...]], Floats]] = {
    **WEIGHTS,
    "sparse 99": sparse(0.99),
    "zeros": lambda _, shape: np.zeros(shape),
    "ones": lambda _, shape: np.ones(shape),
    "dirac": dirac,
    "noisy dirac": lambda rng, shape: dirac(rng, shape) + 0.001 * rng.standard_normal(shape),
    "binary": lambda rng, shape: rng.choice([-0.1, 0.1], shape),
    "ternary": lambda rng, shape: rng.choice([-0.1, 0, 0.1], shape),
    "quantised to 16": quantised(16),
    "quantised to 256": quantised(256),
    "triangular": lambda rng, shape: (
        rng.standard_normal(shape) * np.tri(shape[0], math.prod(shape[1:])).reshape(shape)
    ),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", NAMED)
def test_what_a_weight_of_its_name_may_be(kind: str, dtype: str, tmp_path: Path) -> None:
    for shape in ((64, 64), (200, 300), (64, 64, 3, 3), (300, 1, 25), (8, 1000)):
        for seed in range(2):
            array = NAMED[kind](np.random.default_rng(seed), shape)
            assert seen(tmp_path, array, dtype, named=True) is None, shape


@pytest.mark.parametrize("shape", [(96, 3, 11, 11), (64, 1, 64), (512, 1, 10), (32, 1, 128)])
@pytest.mark.parametrize("named", [True, False])
def test_smooth_filters_that_were_trained(
    shape: tuple[int, ...], named: bool, tmp_path: Path
) -> None:
    """Gabor functions of every frequency, each with a window: what first layers learn."""
    rng = np.random.default_rng(0)
    size = shape[-1]
    x = np.linspace(-1, 1, size)
    wave = rng.uniform(0, size / 2, (*shape[:-1], 1)), rng.uniform(0, 6, (*shape[:-1], 1))
    width, centre = rng.uniform(0.1, 0.5, (*shape[:-1], 1)), rng.uniform(-0.5, 0.5, shape[:-1])
    array = np.cos(wave[0] * x + wave[1]) * np.exp(-(((x - centre[..., None]) / width) ** 2))
    assert seen(tmp_path, array + 0.002 * rng.standard_normal(shape), named=named) is None


def test_what_is_damaged_is_left_to_the_check_of_weights(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((64, 64))
    array[3, 5] = np.nan
    assert seen(tmp_path, array) is None
    assert seen(tmp_path, np.where(np.tri(64) > 0, np.nan, 0)) is None
    array[3, 5] = np.inf
    assert seen(tmp_path, array) is None


def test_too_small_to_tell(tmp_path: Path) -> None:
    assert seen(tmp_path, np.tri(3)) is None
    assert seen(tmp_path, np.mgrid[:5].reshape(1, 5) * np.ones((3, 1))) is None


# -- Copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("numel", [64, 1 << 20, (1 << 20) + 64])
def test_equal_to_the_last_byte(numel: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal(numel).astype("<f4")
    other = array.copy()
    other[-1] += 1
    rows = (numel // 32, 32)
    write_safetensors(
        tmp_path / "m",
        [
            ("a", "F32", rows, array.tobytes()),
            ("b", "F32", rows, array.tobytes()),
            ("c", "F32", rows, other.tobytes()),
            ("d", "F32", rows[::-1], array.tobytes()),
            ("e", "U32", rows, array.tobytes()),
        ],
    )
    with Container(tmp_path / "m") as container:
        first, *others = container.tensors
        assert [equal(container, first, t) for t in others] == [True, False, False, False]


def test_a_copy_of_an_embedding_is_a_head(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, two = (rng.standard_normal((300, 64)).astype("<f4").tobytes() for _ in range(2))
    write_safetensors(
        tmp_path / "m",
        [
            ("embed_tokens.weight", "F32", (300, 64), one),
            ("a.to_names.weight", "F32", (300, 64), one),
            ("b.to_names.weight", "F32", (300, 64), two),
        ],
    )
    with Container(tmp_path / "m") as container:
        told = tell(container.tensors, container).told
        blind = tell(container.tensors).told
    assert told["a.to_names.weight"].role == "head"
    assert "embed_tokens.weight" in told["a.to_names.weight"].reason
    assert [told["b.to_names.weight"].role, blind["a.to_names.weight"].role] == ["weight"] * 2


# -- Cost ------------------------------------------------------------------------------------------


class Counting(Container):
    """Counts the bytes that are read, and the reads."""

    bytes_read = reads = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.bytes_read += len(buffer)
        self.reads += 1
        super().read_into(offset, buffer)


@pytest.mark.parametrize(
    "shape",
    [
        (3000, 1000),
        (2, 3_000_000),
        (3_000_000, 2),
        (1, 1, 1500, 1500),
        (4, 4, 4, 40_000),
        (128, 128, 9, 9),
        (40, 40, 40, 40),
        (2, 2, 2, 2, 2, 2, 40_000),
        (1 << 15, 1, 8),
    ],
)
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_sample_is_all_that_is_read(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    size = {"F32": 4, "BF16": 2}[dtype]
    data = np.random.default_rng(0).bytes(math.prod(shape) * size)
    if dtype == "F32":  # no NaN, so that nothing ends the look early
        data = np.random.default_rng(0).random(math.prod(shape), np.float32).tobytes()
    write_safetensors(tmp_path / "m", [("t", dtype, shape, data)])
    with Counting(tmp_path / "m") as container:
        (tensor,) = container.tensors
        computed(container, tensor, named=False)
        assert 0 < container.bytes_read <= max(values.SAMPLE * size, values.AT_ONCE)
        assert container.reads <= values.SAMPLE // values.RUN
        # A dimension of at least RUN is seen for RUN steps at least.
        block = values._corner(container, tensor, values.SAMPLE)
        for size, whole in zip(block.shape, real_dims(shape), strict=True):
            assert size >= min(whole, values.RUN)
