"""Methods are found by their files; their options come from their signatures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from elsa_cli import inspect, sparsifiers, sparsify
from elsa_cli.errors import UsageError
from elsa_cli.sparsifiers import bind, methods
from tests.helpers import Tensor, write_safetensors
from tests.operations.models import network, save, stored_masks

METHOD = '''
"""Scores for tests."""

from __future__ import annotations

import numpy as np


def {name}(chunk, {parameters}):
    """Return a score by position."""
    return {score}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are methods too."""
    path = tmp_path / "methods"
    path.mkdir()
    monkeypatch.setattr(sparsifiers, "__path__", [*sparsifiers.__path__, str(path)])
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        if name.startswith("elsa_cli.sparsifiers."):
            del sys.modules[name]
            vars(sparsifiers).pop(name.rpartition(".")[2], None)


def add(folder: Path, name: str, score: str, parameters: str = "*, seed: int = 0") -> Path:
    file = folder / f"{name}.py"
    file.write_text(METHOD.format(name=name, score=score, parameters=parameters))
    return file


def test_those_that_come_along() -> None:
    assert {"magnitude", "random"} <= set(methods())
    assert methods() == sorted(methods())


def test_a_new_file_is_a_new_method(folder: Path, tmp_path: Path) -> None:
    """It gives float scores of the last weights first; selection does the rest."""
    add(folder, "last", "chunk.positions().astype(np.float64)")
    add(folder, "_helper", "None")
    assert "last" in methods()
    assert "_helper" not in methods()
    source = save(tmp_path / "m.safetensors", network(["F32"]))
    report = sparsify(source, "0.9", method="last")
    masks = stored_masks(tmp_path / "m.elsa.safetensors", "0.9")
    flat = np.concatenate([masks[name] for name in sorted(masks)])
    assert flat[-report.kept[0] :].all()
    assert not flat[: -report.kept[0]].any()


def test_minus_zero_is_a_tie_with_zero(folder: Path, tmp_path: Path) -> None:
    """A score of -0.0 must not rank above all others."""
    add(folder, "zeros", "np.where(chunk.positions() % 2 == 0, np.float32(-0.0), np.float32(1))")
    source = save(tmp_path / "m.safetensors", network(["F32"]))
    sparsify(source, "0.5", method="zeros")
    masks = stored_masks(tmp_path / "m.elsa.safetensors", "0.5")
    flat = np.concatenate([masks[name] for name in sorted(masks)])
    assert flat[1::2].all()


def test_options(folder: Path, tmp_path: Path) -> None:
    parameters = (
        "*, power: float = 1.5, times: int = 2, on: bool = False, word: str = 'a', seed: int = 0"
    )
    add(folder, "many", "chunk.magnitude()", parameters)
    scorer, options = bind("many", {}, 5)
    assert options == {"power": 1.5, "times": 2, "on": False, "word": "a"}
    assert scorer.keywords == {**options, "seed": 5}  # type: ignore[attr-defined]
    given = {"power": "2e3", "times": "-7", "on": "TRUE", "word": "x=y"}
    expected = {"power": 2000.0, "times": -7, "on": True, "word": "x=y"}
    assert bind("many", given, 0)[1] == expected
    source = save(tmp_path / "m.safetensors", network())
    sparsify(source, "0.5", method="many", settings=given, seed=3)
    report = inspect(tmp_path / "m.elsa.safetensors")
    assert report.method["name"] == "many"
    assert report.method["options"] == expected
    assert report.seed == 3
    for key, text in [("times", "1.5"), ("power", "much"), ("on", "yes")]:
        with pytest.raises(UsageError, match=f'^settings={{"{key}": "{text}"}} is not '):
            bind("many", {key: text}, 0)
    with pytest.raises(UsageError, match=r"no option 'seed'.*: on, power, times, word"):
        bind("many", {"seed": "1"}, 0)


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match=r"no method 'magic'; there are .*magnitude, .*random"):
        bind("magic", {}, 0)
    with pytest.raises(UsageError, match="magnitude has no option 'p'; its options are: none"):
        bind("magnitude", {"p": "1"}, 0)


@pytest.mark.parametrize("parameters", ["*, rate=1.0", "*, rate: float"])
def test_a_parameter_without_annotation_or_default(folder: Path, parameters: str) -> None:
    file = add(folder, "careless", "chunk.magnitude()", parameters)
    with pytest.raises(TypeError, match="rate needs an annotation and a default") as caught:
        bind("careless", {}, 0)
    assert str(file) in str(caught.value)


def random_mask(
    path: Path, seed: int, level: str = "0.75"
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    out = path.parent / "out"
    sparsify(path, level, out, method="random", seed=seed)
    masks = stored_masks(out, level)
    return np.concatenate([masks[name] for name in sorted(masks)])


@pytest.fixture
def zeros(tmp_path: Path) -> Path:
    """A model whose weights say nothing."""
    shapes = {"a": (100, 200), "b": (60, 50, 3, 3), "c": (10, 100)}
    tensors: list[Tensor] = [(n, "F16", s, bytes(2 * int(np.prod(s)))) for n, s in shapes.items()]
    return write_safetensors(tmp_path / "zeros.safetensors", tensors)


def test_random_is_drawn_by_the_seed(zeros: Path) -> None:
    first = random_mask(zeros, 1)
    np.testing.assert_array_equal(first, random_mask(zeros, 1))
    numel = 20_000 + 27_000 + 1_000
    assert first.size == numel
    for seed in (0, 2, 1 << 40):
        other = random_mask(zeros, seed)
        assert int(other.sum()) == numel // 4
        # Independent masks of density 1/4 share 1/16; the deviation is 52 weights.
        assert abs(int((first & other).sum()) - numel // 16) < 5 * 52


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_random_favours_no_layer_row_or_place(zeros: Path, seed: int) -> None:
    mask = random_mask(zeros, seed)
    a, b, c = np.split(mask, [20_000, 47_000])
    for layer in (a, b, c):
        deviation = (0.25 * 0.75 / layer.size) ** 0.5
        assert abs(layer.mean() - 0.25) < 4 * deviation
    for axis in (0, 1):
        means = a.reshape(100, 200).mean(axis=axis)
        assert means.std() < 1.3 * (0.25 * 0.75 / a.reshape(100, 200).shape[axis]) ** 0.5
    pairs = mask[:-1] & mask[1:]
    assert abs(pairs.mean() - 1 / 16) < 5 * (1 / 16 / pairs.size) ** 0.5


def test_random_has_the_densities_of_the_distribution(zeros: Path) -> None:
    report = sparsify(zeros, "0.9", method="random", distribution="erk")
    kept = {row.name: row.kept[0] for row in report.tensors}
    assert abs(sum(kept.values()) - 4800) <= 1
    assert kept["c"] / 1000 > kept["a"] / 20_000 > kept["b"] / 27_000


@pytest.mark.parametrize("seed", [(1 << 63) + 1, (1 << 64) - 1])
def test_random_takes_large_seeds(zeros: Path, seed: int) -> None:
    assert int(random_mask(zeros, seed).sum()) == 12_000


@pytest.mark.parametrize("seed", [1 << 64, 1 << 200])
def test_a_seed_beyond_64_bits_is_taken_or_refused(zeros: Path, seed: int) -> None:
    try:
        assert int(random_mask(zeros, seed).sum()) == 12_000
    except UsageError as error:
        assert str(seed) in str(error)  # noqa: PT017
