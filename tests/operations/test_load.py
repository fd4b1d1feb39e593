"""Levels in memory are those that extract writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elsa_cli import extract, load_level, open_nested, pack, sparsify
from elsa_cli.errors import CutFile, LevelNotStored, NotNested, UsageError
from tests.helpers import BITS, Tensor, random_bits, read_safetensors
from tests.operations.models import LEVELS, every_dtype, network, save

NOT_IN_TORCH = ("F4", "F6_E2M3", "F6_E3M2")
NUMPY = {
    "BOOL": "bool",
    "C64": "complex64",
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"U{n}": f"uint{n}" for n in (8, 16, 32, 64)},
    "BF16": "uint16",
    **dict.fromkeys([d for d in BITS if d.startswith("F8")], "uint8"),
}
TORCH = {
    **{d: n for d, n in NUMPY.items() if not d.startswith(("F8", "BF"))},
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


def files(tmp_path: Path, tensors: list[Tensor]) -> list[Path]:
    """Return nested files of both placements and a packed one."""
    source = save(tmp_path / "m.safetensors", tensors)
    found = []
    for masks in ("header", "tensors"):
        sparsify(source, LEVELS, tmp_path / masks, masks=masks)
        found.append(tmp_path / masks)
    return [*found, Path(pack(found[0], tmp_path / "packed").output)]


def everything(without: tuple[str, ...] = ()) -> list[Tensor]:
    rng = np.random.default_rng(3)
    scalars = [(f"{d}.0d", d, (), random_bits(rng, d, (), "normal")) for d in ("F32", "BF16")]
    rest = [t for t in every_dtype() if t[1] not in without]
    return [*rest, *scalars, *network(["F16"])]


def without_empty(tensors: list[Tensor]) -> list[Tensor]:
    return [t for t in tensors if t[3]]


@pytest.mark.parametrize("threads", [1, 3])
def test_numpy(threads: int, tmp_path: Path) -> None:
    for file in files(tmp_path, everything()):
        for level in (*LEVELS, "dense"):
            extract(file, level, tmp_path / "x")
            written, _ = read_safetensors(tmp_path / "x")
            loaded = load_level(file, level, framework="numpy", threads=threads)
            assert loaded.keys() == written.keys()
            for name, (dtype, shape, data) in written.items():
                assert loaded[name].tobytes() == data, name
                if dtype in NUMPY:
                    assert (loaded[name].dtype, loaded[name].shape) == (NUMPY[dtype], shape), name


def test_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for file in files(tmp_path, without_empty(everything(NOT_IN_TORCH))):
        for level in (*LEVELS, "dense"):
            extract(file, level, tmp_path / "x")
            written, _ = read_safetensors(tmp_path / "x")
            loaded = load_level(file, level)
            assert loaded.keys() == written.keys()
            for name, (dtype, shape, data) in written.items():
                tensor = loaded[name]
                assert tensor.dtype == getattr(torch, TORCH[dtype]), name
                assert tuple(tensor.shape) == shape, name
                assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == data, name


def test_empty_tensors_in_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tensors: list[Tensor] = [*network(), ("empty.half", "F16", (2, 0), b"")]
    loaded = load_level(files(tmp_path, tensors)[0], "0.5")
    assert tuple(loaded["empty"].shape) == (0, 3)
    assert str(loaded["empty.half"].dtype) == "torch.float16"


def test_torch_like_the_stock_library(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    (file, *_) = files(tmp_path, without_empty(network()))
    extract(file, "0.7", tmp_path / "x.safetensors")
    stock = safetensors.load_file(tmp_path / "x.safetensors")
    loaded = load_level(file, 0.7)
    assert loaded.keys() == stock.keys()
    for name, tensor in stock.items():
        assert (
            torch.equal(loaded[name].view(torch.uint8), tensor.view(torch.uint8))
            if (tensor.ndim)
            else torch.equal(loaded[name], tensor)
        )


@pytest.mark.parametrize("dtype", NOT_IN_TORCH)
def test_dtypes_that_torch_lacks(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tensors = [*without_empty(network()), *(t for t in every_dtype() if t[1] == dtype)]
    with pytest.raises(UsageError, match=f"no dtype {dtype}.*framework='numpy'"):
        load_level(files(tmp_path, tensors)[0], "0.5")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from elsa_cli import ElsaError, load_level
assert load_level(sys.argv[1], "0.5", framework="numpy")
try:
    load_level(sys.argv[1], "0.5")
except ElsaError as error:
    print(error)
"""


def test_without_torch(tmp_path: Path) -> None:
    (file, *_) = files(tmp_path, network())
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(file)], capture_output=True, text=True
    )
    assert done.stdout == (
        "this needs torch, which is not installed; pip install 'elsa-cli[train]', or load with "
        'framework="numpy"\n'
    ), done.stderr


def test_arrays_can_be_written_to(tmp_path: Path) -> None:
    for file in files(tmp_path, network()):
        for array in load_level(file, "0.5", framework="numpy").values():
            assert array.flags.writeable


def test_masks(tmp_path: Path) -> None:
    """A mask is explicit: kept zeros are in it, and it says what load keeps."""
    tensors = network(kind="weird")
    for file in files(tmp_path, tensors):
        with open_nested(file) as checkpoint:
            assert [level.text for level in checkpoint.levels] == [*LEVELS, "dense"]
            assert set(checkpoint.names) == {t[0] for t in tensors}
            assert checkpoint.metadata == {"format": "pt", "note": "kept"}
            dense = checkpoint.load("dense", framework="numpy")
            for name in checkpoint.prunable:
                assert checkpoint.mask("dense", name).all()
                sparser = np.zeros(dense[name].shape, np.bool_)
                for level in LEVELS:
                    mask = checkpoint.mask(level, name)
                    assert mask.dtype == np.bool_
                    assert mask.shape == dense[name].shape
                    assert not (sparser & ~mask).any()
                    sparser = mask
                    loaded = checkpoint.load(level, framework="numpy")[name]
                    width = f"u{loaded.itemsize}"
                    expected = np.where(mask, dense[name].view(width), 0)
                    np.testing.assert_array_equal(loaded.view(width), expected)


def test_masks_of_a_cut_file(tmp_path: Path) -> None:
    nested, _, packed = files(tmp_path, network())
    prefix = pack(nested, tmp_path / "again").prefix[1]
    (tmp_path / "cut").write_bytes(packed.read_bytes()[:prefix])
    with open_nested(tmp_path / "cut") as cut, open_nested(nested) as whole:
        assert [level.text for level in cut.levels] == ["0.9", "0.7"]
        for name in whole.prunable:
            for level in ("0.9", "0.7"):
                np.testing.assert_array_equal(cut.mask(level, name), whole.mask(level, name))
            for level in ("0.5", "dense"):
                with pytest.raises(CutFile):
                    cut.mask(level, name)


def test_what_is_refused(tmp_path: Path) -> None:
    for file in files(tmp_path, network()):
        with open_nested(file) as checkpoint:
            with pytest.raises(LevelNotStored, match=r"stored are 0\.9, 0\.7, 0\.5, dense"):
                checkpoint.load(0.8)
            with pytest.raises(UsageError, match="not a prunable tensor") as caught:
                checkpoint.mask("0.5", "conv.bias")
            assert caught.value.tensor == "conv.bias"
            with pytest.raises(UsageError, match="no framework 'jax'"):
                checkpoint.load("0.5", framework="jax")
        checkpoint.close()
    with pytest.raises(NotNested):
        open_nested(tmp_path / "m.safetensors")


def test_torch_loads_the_nested_and_the_sparse_file_strictly(tmp_path: Path) -> None:
    """While the masks are in the header, the nested file is the dense checkpoint."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")

    def network() -> Any:
        torch.manual_seed(0)
        layers = torch.nn
        return layers.Sequential(
            layers.Conv2d(3, 8, 3), layers.BatchNorm2d(8), layers.Flatten(), layers.Linear(8, 5)
        )

    trained = network()
    safetensors.save_file(trained.state_dict(), tmp_path / "m.safetensors")
    sparsify(tmp_path / "m.safetensors", "0.5,0.9")
    extract(tmp_path / "m.elsa.safetensors", "0.9")
    for name in ("m.elsa.safetensors", "m-0.9.safetensors"):
        loaded = network()
        assert str(loaded.load_state_dict(safetensors.load_file(tmp_path / name), strict=True)) == (
            "<All keys matched successfully>"
        )
        state = loaded.state_dict()
        for key, dense in trained.state_dict().items():
            if name == "m.elsa.safetensors" or dense.ndim < 2:
                assert torch.equal(state[key], dense)
    kept = sum(int((state[key] != 0).sum()) for key in ("0.weight", "3.weight"))
    assert kept == round(0.1 * (3 * 8 * 9 + 8 * 5))
