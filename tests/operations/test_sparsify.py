"""Sparsify, checked through what extract writes and against a full sort."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from elsa_cli import extract, sparsify
from elsa_cli.core.level import Level
from elsa_cli.errors import (
    AlreadyNested,
    InputError,
    NonFinite,
    NothingToDo,
    OutputExists,
    UsageError,
)
from elsa_cli.selection import masks as masks_module
from elsa_cli.selection import topk
from elsa_cli.selection.density import erk
from tests.helpers import FLOATS, Tensor, random_bits, raw_bits, read_safetensors
from tests.operations.models import (
    LEVELS,
    assert_network,
    network,
    prunable,
    save,
    small_pieces,
    stored_masks,
    zeroed,
)
from tests.selection.reference import absolute, half_even, layer_masks, reference_masks


def levels_text() -> str:
    return ",".join(reversed(LEVELS))


@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "weird"])
@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_global_magnitude(kind: str, masks: str, tmp_path: Path) -> None:
    tensors = network(list(FLOATS), kind=kind)
    source = save(tmp_path / "m.safetensors", tensors)
    report = sparsify(source, levels_text(), masks=masks)
    numel = sum(math.prod(t[2]) for t in prunable(tensors))
    counts = [half_even(numel * tenths, 10) for tenths in (1, 3, 5)]
    assert report.output == str(tmp_path / "m.elsa.safetensors")
    assert (report.prunable, report.kept, report.masks) == (numel, tuple(counts), masks)
    expected = reference_masks(prunable(tensors), counts)
    for level, wanted in zip(LEVELS, expected, strict=True):
        out = tmp_path / f"{level}.safetensors"
        extract(report.output, level, out)
        assert_network(out, zeroed(tensors, wanted))
        rows = {row.name: row.kept[LEVELS.index(level)] for row in report.tensors}
        assert rows == {name: int(mask.sum()) for name, mask in wanted.items()}


@pytest.mark.parametrize("masks", ["header", "tensors"])
@pytest.mark.parametrize("options", [{}, {"distribution": "erk"}, {"group": 4}], ids=str)
def test_same_bytes_for_any_threads_and_pieces(
    options: dict[str, str], masks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "m.safetensors", network(list(FLOATS), kind="ties"))
    out = tmp_path / "out"
    sparsify(source, "0.5,0.75", out, masks=masks, threads=1, **options)  # type: ignore[arg-type]
    first = out.read_bytes()
    small_pieces(monkeypatch, 136)
    for threads in (1, 4):
        for direct, room in ((topk.DIRECT, topk.ROOM), (1, 9)):
            few = partial(topk.cuts, room=room)
            monkeypatch.setattr(
                masks_module,
                "cuts",
                lambda *a, few=few, direct=direct, **k: few(*a, **k | {"direct": direct}),
            )
            sparsify(source, "0.5,0.75", out, masks=masks, threads=threads, **options)  # type: ignore[arg-type]
            assert out.read_bytes() == first


def test_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    tensors = network(kind="ties")
    one = save(tmp_path / "one.safetensors", tensors)
    two = save(tmp_path / "two.safetensors", tensors[::-1])
    for source in (one, two):
        sparsify(source, "0.5")
    for name, mask in stored_masks(tmp_path / "one.elsa.safetensors", "0.5").items():
        other = stored_masks(tmp_path / "two.elsa.safetensors", "0.5")[name]
        np.testing.assert_array_equal(mask, other)


@pytest.mark.parametrize("kind", ["normal", "ties"])
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_layers_have_counts_of_their_own(distribution: str, kind: str, tmp_path: Path) -> None:
    tensors = network(kind=kind)
    source = save(tmp_path / "m.safetensors", tensors)
    report = sparsify(source, levels_text(), distribution=distribution)
    pruned = prunable(tensors)
    scores = {name: absolute(dtype, data) for name, dtype, _, data in pruned}
    for at, level in enumerate(LEVELS):
        density = 1 - Fraction(level)
        densities = (
            erk([tuple(t[2]) for t in pruned], density)
            if distribution == "erk"
            else [density] * len(pruned)
        )
        counts = {t[0]: round(d * math.prod(t[2])) for t, d in zip(pruned, densities, strict=True)}
        assert {row.name: row.kept[at] for row in report.tensors} == counts
        out = tmp_path / "x.safetensors"
        extract(tmp_path / "m.elsa.safetensors", level, out)
        assert_network(out, zeroed(tensors, layer_masks(scores, counts)))


def test_groups(tmp_path: Path) -> None:
    """Each group of 4 inputs keeps its largest; a tensor that does not divide stays dense."""
    rng = np.random.default_rng(1)
    shapes = {"conv": (6, 8, 3, 3), "fc": (5, 12), "first": (6, 3, 5, 5)}
    tensors: list[Tensor] = [
        (f"{n}.weight", "F32", s, random_bits(rng, "F32", s, "normal")) for n, s in shapes.items()
    ]
    source = save(tmp_path / "m.safetensors", tensors)
    report = sparsify(source, "50%,75%", group=4)
    assert report.skipped == ("first.weight",)
    assert report.prunable == 6 * 8 * 9 + 60
    for level, keep in (("0.5", 2), ("0.75", 1)):
        masks = stored_masks(tmp_path / "m.elsa.safetensors", level)
        assert masks.keys() == {"conv.weight", "fc.weight"}
        for name, _, shape, data in tensors[:2]:
            weights = np.abs(np.frombuffer(data, "<f4")).reshape(shape[0], shape[1] // 4, 4, -1)
            order = np.sort(weights, axis=2)[:, :, 4 - keep, None]
            np.testing.assert_array_equal(masks[name], (weights >= order).reshape(-1))


def test_groups_that_fit_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network())
    with pytest.raises(NothingToDo, match="divisible by 7"):
        sparsify(source, f"{6 / 7}", group=7)
    with pytest.raises(UsageError, match="whole number of 4"):
        sparsify(source, "0.9", group=4)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_dense_weights_and_metadata_stay(tmp_path: Path) -> None:
    tensors = network(list(FLOATS), kind="weird")
    source = save(tmp_path / "m.safetensors", tensors)
    before = source.read_bytes()
    sparsify(source, "0.5", masks="header")
    assert source.read_bytes() == before
    written, metadata = read_safetensors(tmp_path / "m.elsa.safetensors")
    assert written == {t[0]: (t[1], tuple(t[2]), t[3]) for t in tensors}
    assert {k: v for k, v in metadata.items() if not k.startswith("elsa")} == {
        "format": "pt",
        "note": "kept",
    }


@pytest.mark.parametrize("masks", ["auto", "header", "tensors"])
@pytest.mark.parametrize("options", [{}, {"scope": "layer"}, {"group": 4}], ids=str)
def test_dry_run(options: dict[str, str], masks: str, tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network())
    dry = sparsify(source, "0.5,0.75", masks=masks, dry_run=True, **options)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert dry.output is None
    real = sparsify(source, "0.5,0.75", masks=masks, **options)  # type: ignore[arg-type]
    assert real.output is not None
    assert dry.kept == real.kept
    assert dry.tensors == real.tensors
    assert (dry.masks, dry.prunable, dry.skipped) == (real.masks, real.prunable, real.skipped)
    assert dry.bytes_out == real.bytes_out == Path(real.output).stat().st_size
    assert dry.bytes_in == real.bytes_in == source.stat().st_size


NONFINITE = {
    "F64": [0x7FF0 << 48, 0xFFF8 << 48, (0x7FF0 << 48) | 1],
    "F32": [0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001],
    "F16": [0x7C00, 0xFE00, 0x7C01],
    "BF16": [0x7F80, 0xFFC0, 0x7F81],
    "F8_E5M2": [0x7C, 0xFD],
    "F8_E4M3": [0x7F, 0xFF],
    "F8_E4M3FNUZ": [0x80],
    "F8_E5M2FNUZ": [0x80],
}


def with_nonfinite(dtype: str, bits: int, at: int = 100) -> list[Tensor]:
    tensors = network(["F32", dtype] if dtype != "F32" else ["BF16", "F32"])
    name = f"{dtype}.fc.weight"
    index = [t[0] for t in tensors].index(name)
    changed = raw_bits(dtype, tensors[index][3]).copy()
    changed[at] = bits
    tensors[index] = (*tensors[index][:3], changed.tobytes())
    return tensors


@pytest.mark.parametrize("options", [{}, {"scope": "layer"}, {"group": 4}], ids=str)
@pytest.mark.parametrize(("dtype", "bits"), [(d, b) for d, v in NONFINITE.items() for b in v])
def test_nonfinite_is_an_error_that_names_the_tensor(
    dtype: str, bits: int, options: dict[str, str], tmp_path: Path
) -> None:
    source = save(tmp_path / "m.safetensors", with_nonfinite(dtype, bits))
    for dry_run in (False, True):
        with pytest.raises(NonFinite, match=r"sparsify\(allow_nonfinite=True\)$") as caught:
            sparsify(source, "0.5", dry_run=dry_run, **options)  # type: ignore[arg-type]
        assert (caught.value.file, caught.value.tensor) == (str(source), f"{dtype}.fc.weight")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("with_f64", [False, True])
@pytest.mark.parametrize(("dtype", "bits"), [(d, b) for d, v in NONFINITE.items() for b in v])
def test_nonfinite_allowed_ranks_highest(
    dtype: str, bits: int, with_f64: bool, scope: str, tmp_path: Path
) -> None:
    """Also beside wider dtypes, and for the one NaN of FNUZ floats, which has no magnitude."""
    tensors = with_nonfinite(dtype, bits)
    if with_f64 and dtype != "F64":
        tensors += network(["F64"])[:2]
    source = save(tmp_path / "m.safetensors", tensors)
    sparsify(source, "0.99", allow_nonfinite=True, scope=scope)
    assert stored_masks(tmp_path / "m.elsa.safetensors", "0.99")[f"{dtype}.fc.weight"][100]
    extract(tmp_path / "m.elsa.safetensors", "0.99")
    out, _ = read_safetensors(tmp_path / "m-0.99.safetensors")
    assert raw_bits(dtype, out[f"{dtype}.fc.weight"][2])[100] == bits


def test_nonfinite_outside_the_prunable_tensors_is_nobodys_business(tmp_path: Path) -> None:
    tensors = with_nonfinite("F32", 0x7FC00000)
    source = save(tmp_path / "m.safetensors", tensors)
    report = sparsify(source, "0.5", exclude=["F32.fc*"])
    assert "F32.fc.weight" not in {row.name for row in report.tensors}


def test_levels_in_any_order_and_spelling(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network())
    outputs = []
    mixed: list[str | float | Level] = ["0.9", 0.7, 0.5, "dense"]
    for at, levels in enumerate(("0.5,0.7,0.9", "90%, .50 ,0.70", mixed)):
        out = tmp_path / f"{at}.out"
        sparsify(source, levels, out)
        outputs.append(out.read_bytes())
    assert len(set(outputs)) == 1


def test_levels_that_round_to_nothing_or_to_the_same(tmp_path: Path) -> None:
    tensors: list[Tensor] = [("w", "F32", (1, 3), np.array([3, 1, 2], "<f4").tobytes())]
    source = save(tmp_path / "m.safetensors", tensors)
    report = sparsify(source, "0.9,0.6,0.65,0.1", include=["w"])
    assert report.kept == (0, 1, 1, 3)
    for level, kept in [("0.9", [0, 0, 0]), ("0.65", [3, 0, 0]), ("0.1", [3, 1, 2])]:
        extract(tmp_path / "m.elsa.safetensors", level, tmp_path / "x")
        out, _ = read_safetensors(tmp_path / "x")
        assert np.frombuffer(out["w"][2], "<f4").tolist() == kept


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": "dense"}, NothingToDo, "above 0"),
        ({"levels": "0.5,50%"}, UsageError, "given twice"),
        ({"levels": "1"}, UsageError, r"outside \[0, 1\)"),
        ({"levels": ""}, UsageError, "not a level"),
        ({"method": "magic"}, UsageError, "no method 'magic'"),
        ({"settings": {"p": "1"}}, UsageError, "no option 'p'"),
        ({"masks": "sidecar"}, UsageError, "sidecar"),
        ({"seed": -1}, UsageError, "negative"),
        ({"scope": "row"}, UsageError, "no scope"),
        ({"include": ["nothing*"]}, UsageError, "matches no tensor"),
        ({"output": "m.safetensors"}, UsageError, "also an input"),
        ({"output": "there", "clobber": False}, OutputExists, "exists already"),
    ],
)
def test_what_is_refused(
    options: dict[str, object],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = save(tmp_path / "m.safetensors", network())
    (tmp_path / "there").write_bytes(b"old")
    before = source.read_bytes()
    with pytest.raises(error, match=message):
        sparsify(source, **{"levels": "0.5", **options})  # type: ignore[arg-type]
    assert source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.safetensors", "there"]
    assert (tmp_path / "there").read_bytes() == b"old"


def test_force_replaces_the_input(tmp_path: Path) -> None:
    tensors = network()
    source = save(tmp_path / "m.safetensors", tensors)
    sparsify(source, "0.5", source, force=True)
    with pytest.raises(AlreadyNested):
        sparsify(source, "0.5")
    extract(source, "dense", tmp_path / "back.safetensors")
    assert_network(tmp_path / "back.safetensors", zeroed(tensors, {}))


def test_reserved_names(tmp_path: Path) -> None:
    tensors = [*network(), ("elsa.mask.0.5", "U8", (4,), bytes(4))]
    with pytest.raises(InputError, match="reserved"):
        sparsify(save(tmp_path / "m.safetensors", tensors), "0.5")
