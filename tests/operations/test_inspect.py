"""Inspect: counts, zeros and bytes, against the files themselves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from elsa_cli import extract, inspect, pack, sparsify
from elsa_cli.errors import InputError
from tests.helpers import FLOATS, Tensor, encode_floats, raw_bits
from tests.operations.models import LEVELS, every_dtype, network, prunable, save, stored_masks


def large() -> list[Tensor]:
    """Return tensors so large that the entropy tells the coded size."""
    rng = np.random.default_rng(0)
    shapes = {"F32": (300, 1000), "BF16": (256, 64, 3, 3)}
    return [
        (f"{d}.weight", d, s, encode_floats(d, rng.standard_normal(math.prod(s))).tobytes())
        for d, s in shapes.items()
    ]


def test_nested(tmp_path: Path) -> None:
    tensors = network()
    source = save(tmp_path / "m.safetensors", tensors)
    chosen = sparsify(source, LEVELS, seed=7, scope="layer")
    nested = tmp_path / "m.elsa.safetensors"
    report = inspect(nested)
    pruned = {t[0] for t in prunable(tensors)}
    numel = sum(math.prod(t[2]) for t in tensors if t[0] in pruned)
    assert (report.path, report.kind, report.size) == (
        str(nested),
        "nested",
        nested.stat().st_size,
    )
    assert (report.prunable, report.seed, report.masks) == (numel, 7, "header")
    assert report.parameters == sum(math.prod(t[2]) for t in tensors)
    assert report.metadata == {"format": "pt", "note": "kept"}
    assert report.method["name"] == "magnitude"
    assert report.method["scope"] == "layer"
    assert [info.level.text for info in report.levels] == [*LEVELS, "dense"]
    assert [info.kept for info in report.levels] == [*chosen.kept, numel]
    assert all(info.available and info.prefix is None for info in report.levels)
    raw = sum(-(-math.prod(t[2]) // 8) for t in tensors if t[0] in pruned)
    assert [info.nested_bytes for info in report.levels] == [raw, raw, raw, 0]
    details = {t.name: t for t in report.tensors}
    assert details.keys() == {t[0] for t in tensors}
    for name, dtype, shape, data in tensors:
        detail = details[name]
        assert (detail.dtype, detail.shape, detail.nbytes) == (dtype, tuple(shape), len(data))
        assert detail.part == ("prunable" if name in pruned else "shared")
        assert detail.zeros is None
        densities = [stored_masks(nested, level)[name].mean() for level in LEVELS if name in pruned]
        assert detail.density == pytest.approx(densities)


def test_packed_sizes_tile_the_file(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network())
    sparsify(source, LEVELS)
    nested = tmp_path / "m.elsa.safetensors"
    packed = Path(pack(nested).output)
    report = inspect(packed)
    assert (report.kind, report.packed_exact, report.size) == (
        "packed",
        True,
        len(packed.read_bytes()),
    )
    length = int.from_bytes(packed.read_bytes()[:8], "little") + 8
    shared = sum(t.nbytes for t in report.tensors if t.part == "shared")
    sizes = [info.packed_bytes for info in report.levels]
    assert length + shared + sum(sizes) == report.size
    prefixes = [info.prefix for info in report.levels]
    assert prefixes == [length + shared + sum(sizes[: k + 1]) for k in range(len(sizes))]
    other = inspect(nested)
    assert [i.kept for i in report.levels] == [i.kept for i in other.levels]
    assert report.tensors == other.tensors
    assert (report.parameters, report.prunable) == (other.parameters, other.prunable)


@pytest.mark.parametrize("kind", ["random", "magnitude"])
def test_the_estimate_is_near_the_packed_size(kind: str, tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", large())
    sparsify(source, "0.3,0.5,0.7,0.9,0.95", method=kind)
    nested = tmp_path / "m.elsa.safetensors"
    guess = inspect(nested)
    exact = inspect(pack(nested).output)
    assert not guess.packed_exact
    for ours, theirs in zip(guess.levels, exact.levels, strict=True):
        assert ours.packed_bytes == pytest.approx(theirs.packed_bytes, rel=0.03)
    # The masks alone, which are a small part of these bytes, are near their entropy too.
    values = [4 * large()[0][2][0] * 1000, 2 * 256 * 64 * 9]
    masks = sum(i.packed_bytes for i in exact.levels) - sum(values)
    estimate = sum(i.packed_bytes for i in guess.levels) - sum(values)
    assert estimate <= masks <= 1.03 * estimate + 500


def test_a_cut_file_says_what_it_holds(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network())
    sparsify(source, LEVELS)
    report = pack(tmp_path / "m.elsa.safetensors")
    cut = tmp_path / "cut"
    cut.write_bytes(Path(report.output).read_bytes()[: report.prefix[1]])
    assert [info.available for info in inspect(cut).levels] == [True, True, False, False]
    cut.write_bytes(cut.read_bytes()[: report.prefix[0] - 1])
    with pytest.raises(InputError, match=r"0\.9"):
        inspect(cut)


def test_plain_counts_zeros(tmp_path: Path) -> None:
    """Of floats, -0.0 is a zero too; a dtype that shares bytes is not counted."""
    tensors = network(list(FLOATS), kind="weird") + every_dtype()
    tensors += [("i", "I16", (4,), np.array([0, 1, -32768, 0], "<i2").tobytes())]
    source = save(tmp_path / "m.safetensors", tensors)
    report = inspect(source, threads=3)
    assert (report.kind, report.levels, report.prunable) == ("plain", (), 0)
    assert report.size == source.stat().st_size
    for (name, dtype, _, data), detail in zip(
        sorted(tensors), sorted(report.tensors, key=lambda t: t.name), strict=True
    ):
        assert (detail.name, detail.part) == (name, "plain")
        if dtype in ("F4", "F6_E2M3", "F6_E3M2"):
            assert detail.zeros is None
            continue
        bits = raw_bits(dtype, data)
        if dtype in FLOATS:
            bits = bits << 1
        assert detail.zeros == int((bits == 0).sum()), name


def test_a_nan_is_not_a_zero(tmp_path: Path) -> None:
    for dtype in ("F8_E4M3FNUZ", "F8_E5M2FNUZ"):
        source = save(tmp_path / "m", [("w", dtype, (2, 2), bytes([0x80, 0, 0x80, 1]))])
        assert inspect(source).tensors[0].zeros == 1


def test_plain_zeros_are_what_extract_zeroed(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network(["F32"]))
    chosen = sparsify(source, "0.9")
    extract(tmp_path / "m.elsa.safetensors", "0.9")
    zeros = {t.name: t.zeros for t in inspect(tmp_path / "m-0.9.safetensors").tensors}
    for row in chosen.tensors:
        assert zeros[row.name] == row.numel - row.kept[0]
