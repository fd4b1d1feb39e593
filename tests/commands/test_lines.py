"""The lines that people type, and what is in the files afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.commands.shell import names, sh
from tests.helpers import FLOATS, Tensor, elsa, encode_floats, raw_bits, read_safetensors
from tests.operations.models import network, save
from tests.selection.reference import absolute

SPARSIFY = "elsa sparsify model.safetensors --levels 0.5,0.7,0.9"
EXTRACT = "elsa extract --level 0.9 -o sparse.safetensors"


def distinct(folder: Path) -> list[Tensor]:
    """Write a model of several dtypes without a tie, so that the kept weights are beyond doubt."""
    rng = np.random.default_rng(0)
    numel = 1200
    values = rng.permutation(np.linspace(0.01, 100, 3 * numel)) * rng.choice([-1, 1], 3 * numel)
    tensors: list[Tensor] = [
        (f"{dtype}.weight", dtype, (30, 40), encode_floats(dtype, part).tobytes())
        for dtype, part in zip(["F64", "F32"], np.split(values, 3)[:2], strict=True)
    ]
    tensors += [t for t in network(["F16"]) if t[0].startswith(("conv", "embed", "steps"))]
    save(folder / "model.safetensors", tensors)
    return tensors


def test_one_after_the_other_and_in_a_pipe(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        tensors = distinct(folder)
    first = sh(SPARSIFY, one)
    assert (first.returncode, first.stdout) == (0, "model.elsa.safetensors\n"), first.stderr
    second = sh(EXTRACT, one)
    assert (second.returncode, second.stdout) == (0, "sparse.safetensors\n"), second.stderr
    piped = sh(f"{SPARSIFY} | {EXTRACT}", two)
    assert (piped.returncode, piped.stdout) == (0, "sparse.safetensors\n"), piped.stderr
    expected = ["model.elsa.safetensors", "model.safetensors", "sparse.safetensors"]
    assert names(one) == names(two) == expected
    for name in expected:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    check(one / "sparse.safetensors", tensors, 0.1)


def check(path: Path, tensors: list[Tensor], density: float) -> None:
    """Exactly round(density * N) weights are kept: the largest, with their bits."""
    written, _ = read_safetensors(path)
    assert written.keys() == {t[0] for t in tensors}
    pruned = [t for t in tensors if t[1] in FLOATS and len(t[2]) == 2 and "embed" not in t[0]]
    sizes = np.concatenate([absolute(t[1], t[3]) for t in pruned])
    assert np.unique(sizes).size == sizes.size
    keep = round(density * sizes.size)
    threshold = np.sort(sizes)[-keep]
    kept = 0
    for name, dtype, shape, data in tensors:
        assert written[name][:2] == (dtype, tuple(shape))
        if name not in {t[0] for t in pruned}:
            assert written[name][2] == data
            continue
        bits = raw_bits(dtype, written[name][2])
        large = absolute(dtype, data) >= threshold
        kept += int((bits != 0).sum())
        np.testing.assert_array_equal(bits, np.where(large, raw_bits(dtype, data), 0))
    assert kept == keep


@pytest.mark.parametrize("threads", ["1", "4"])
def test_threads_change_nothing(threads: str, folder: Path) -> None:
    for line in (
        ["sparsify", "model.safetensors", "--levels", "0.5,0.7,0.9", "-o", "n", "--threads"],
        ["pack", "n", "-o", "p", "--threads"],
        ["extract", "p", "--level", "0.7", "-o", "x", "--threads"],
    ):
        assert elsa(*line, threads, cwd=folder).returncode == 0
    assert (folder / "n").read_bytes() == (folder / "model.elsa.safetensors").read_bytes()
    assert elsa("extract", "--level", "0.7", cwd=folder).returncode == 0
    assert (folder / "x").read_bytes() == (folder / "model-0.7.safetensors").read_bytes()


def test_default_names(folder: Path, tmp_path: Path) -> None:
    before = names(folder)
    (tmp_path / "elsewhere").mkdir()
    for line, output in [
        (["extract", "model.elsa.safetensors", "--level", "dense"], "model-dense.safetensors"),
        (["extract", "model.elsa.safetensors", "--level", "90%"], "model-0.9.safetensors"),
        (["pack", "model.elsa.safetensors"], "model.packed.elsa.safetensors"),
        (["extract", "model.packed.elsa.safetensors", "--level", ".7"], "model-0.7.safetensors"),
    ]:
        # Beside the input, wherever the command runs.
        done = elsa(line[0], folder / line[1], *line[2:], cwd=tmp_path / "elsewhere")
        assert done.stdout.decode() == f"{folder / output}\n"
        assert output in names(folder)
        assert output not in before
    assert names(tmp_path / "elsewhere") == []


def test_pack_and_unpack(folder: Path) -> None:
    first = (folder / "model.elsa.safetensors").read_bytes()
    assert sh("elsa pack | elsa pack --unpack -o again", folder).stdout == "again\n"
    assert (folder / "again").read_bytes() == first
    done = sh("elsa pack model.elsa.safetensors -o - | elsa pack --unpack - -o - > again", folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert (folder / "again").read_bytes() == first


def test_bundle(folder: Path) -> None:
    assert elsa(
        "extract", "model.elsa.safetensors", "--level", "0.5,0.9", cwd=folder
    ).stdout.decode().split() == ["model-0.9.safetensors", "model-0.5.safetensors"]
    files = ["model.safetensors", "model-0.5.safetensors", "model-0.9.safetensors"]
    done = elsa("pack", *files, "-o", "all", "--json", cwd=folder)
    report = json.loads(done.stdout)
    assert (report["output"], report["levels"]) == ("all", ["0.9", "0.5", "dense"])
    assert elsa("extract", "all", "--level", "0.9", "-o", "x", cwd=folder).returncode == 0
    assert (folder / "x").read_bytes() == (folder / "model-0.9.safetensors").read_bytes()
    named = elsa("pack", *files, "-o", "all", "--levels", "0.4,0.8", "--json", cwd=folder)
    assert json.loads(named.stdout)["levels"] == ["0.8", "0.4", "dense"]
    refused = elsa("pack", files[1], files[0], "-o", "no", cwd=folder)
    assert refused.returncode == 1
    assert b"no" not in [n.encode() for n in names(folder)]


def test_template_for_several_levels(folder: Path) -> None:
    done = elsa("extract", "--level", "0.5,0.9", "-o", "out-{level}.st", cwd=folder)
    assert done.stdout.decode().split() == ["out-0.9.st", "out-0.5.st"]
    done = elsa("extract", "--level", "0.5,0.9", "-o", "one", cwd=folder)
    assert done.returncode == 2
    assert b"{level}" in done.stderr
    assert "one" not in names(folder)


def test_a_packed_file_in_a_pipe(packed: Path) -> None:
    """Only as many bytes as a level needs are fetched, and sent straight into extract."""
    report = json.loads(elsa("inspect", packed, "--json").stdout)
    prefix = {info["level"]: info["prefix"] for info in report["levels"]}
    for level in ("0.9", "0.5"):
        line = f"head -c {prefix[level]} {packed.name} | elsa extract --level {level} -o x"
        done = sh(line, packed.parent)
        assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr
        assert elsa("extract", packed, "--level", level, "-o", packed.parent / "y").returncode == 0
        assert (packed.parent / "x").read_bytes() == (packed.parent / "y").read_bytes()


def test_json(folder: Path) -> None:
    """One object, with the output; the numbers are those of the files."""
    numel = sum(math.prod(t[2]) for t in network() if "." in t[0] and t[0][0] in "FB")
    shown = {}
    for name, line in {
        "sparsify": ["sparsify", "model.safetensors", "--levels", "0.9,0.5", "-o", "a"],
        "pack": ["pack", "model.elsa.safetensors", "-o", "b"],
        "unpack": ["pack", "--unpack", "b", "-o", "c"],
        "extract": ["extract", "model.elsa.safetensors", "--level", "0.9", "-o", "d"],
    }.items():
        done = elsa(*line, "--json", cwd=folder)
        assert done.stdout.count(b"\n") == 1
        shown[name] = json.loads(done.stdout)
        assert shown[name]["output"] == line[-1]
        assert shown[name]["prunable"] == numel
    assert shown["sparsify"]["kept"] == [round(numel / 10), round(numel / 2)]
    assert shown["sparsify"]["bytes_out"] == (folder / "a").stat().st_size
    assert shown["unpack"]["bytes_out"] == (folder / "c").stat().st_size
    assert shown["extract"]["written"][0]["bytes_out"] == (folder / "d").stat().st_size
    done = elsa("extract", "model.elsa.safetensors", "--level", "0.9,0.5", "--json", cwd=folder)
    assert json.loads(done.stdout)["output"] == ["model-0.9.safetensors", "model-0.5.safetensors"]
    dry = elsa(
        "sparsify", "model.safetensors", "--levels", "0.9", "--dry-run", "--json", cwd=folder
    )
    assert json.loads(dry.stdout)["output"] is None
    verified = json.loads(elsa("verify", "b", "--json", cwd=folder).stdout)
    assert verified["ok"] is True
    assert verified["problems"] == []


def test_python_api_is_the_command(folder: Path) -> None:
    import elsa_cli

    elsa_cli.sparsify(folder / "model.safetensors", [0.5, 0.7, 0.9], folder / "api")
    assert (folder / "api").read_bytes() == (folder / "model.elsa.safetensors").read_bytes()
