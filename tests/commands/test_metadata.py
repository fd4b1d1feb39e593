"""Foreign metadata and names come back, whatever they are; hashes hold for what they stand in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tests.commands.shell import names, one_line
from tests.helpers import Tensor, elsa, read_safetensors, write_safetensors
from tests.networks import manifest_of

FOREIGN = {
    "elsa": "a text of somebody else",
    "elsa.note": "x",
    "elsa.mask.0.9": "not a mask",
    "elsa.mask.0.5": "",
    "elsa.level.0.9/net.weight": "é\0\n",
    "elsa.foreign/elsa": "twice",
    "elsa.foreign/": "",
    "format": "pt",
    "": "no name",
}
HASHES = {
    "sshs_model_hash": "12ab",
    "sshs_legacy_hash": "34cd",
    "modelspec.hash_sha256": "0x56ef",
    "hash_sha256": "0x78",
}
BASE = {"ss_sd_model_hash": "of another file"}
MASKS = ["header", "tensors"]


def model(path: Path, metadata: Mapping[str, str], prefix: str = "net.") -> Path:
    rng = np.random.default_rng(0)
    tensors: list[Tensor] = []
    for name in ("weight", "up.weight"):
        data = rng.standard_normal((16, 24)).astype("<f4").tobytes()
        tensors.append((prefix + name, "F32", (16, 24), data))
    tensors.append((prefix + "bias", "F32", (16,), rng.standard_normal(16).astype("<f4").tobytes()))
    return write_safetensors(path, sorted(tensors), metadata)


def run(line: str, folder: Path) -> str:
    done = elsa(*line.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata as the stock library reads it."""
    with safe_open(path, "np") as file:
        found: dict[str, str] = file.metadata()
    return found


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(
    "kept",
    [FOREIGN, {**FOREIGN, **HASHES, **BASE}, {"format": "pt", "elsa": '{"version": "2", "a": 1}'}],
    ids=["elsa", "hashes", "json"],
)
def test_metadata_goes_round(kept: dict[str, str], masks: str, tmp_path: Path) -> None:
    plain = model(tmp_path / "m.safetensors", kept)
    run(f"sparsify m.safetensors --levels 0.5,0.9 --masks {masks} -o n", tmp_path)
    run("pack n -o p", tmp_path)
    run("pack --unpack p -o u", tmp_path)
    assert (tmp_path / "u").read_bytes() == (tmp_path / "n").read_bytes()
    without = {k: v for k, v in kept.items() if k not in HASHES}
    for source in ("n", "p"):
        run(f"verify {source}", tmp_path)
        run(f"extract {source} --level dense -o d", tmp_path)
        assert metadata(tmp_path / "d") == kept
        assert read_safetensors(tmp_path / "d") == read_safetensors(plain)
        run(f"extract {source} --level 0.9 -o s", tmp_path)
        assert metadata(tmp_path / "s") == without
        shown = json.loads(elsa("inspect", source, "--json", cwd=tmp_path).stdout)
        assert shown["metadata"] == kept
    # Each of them is a plain file, which can be used again.
    assert json.loads(elsa("inspect", "s", "--json", cwd=tmp_path).stdout)["metadata"] == without
    run("sparsify d --levels 0.5,0.9 -o again --masks " + masks, tmp_path)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "n").read_bytes()
    run("pack d s -o bundle", tmp_path)
    run("extract bundle --level dense -o b", tmp_path)
    assert metadata(tmp_path / "b") == kept


@pytest.mark.parametrize("masks", MASKS)
def test_a_hash_stands_only_where_it_holds(masks: str, tmp_path: Path) -> None:
    model(tmp_path / "m", {**HASHES, **BASE})
    run(f"sparsify m --levels 0.5 --masks {masks} -o n", tmp_path)
    run("pack n -o p", tmp_path)
    for name in ("n", "p"):
        # With masks in the header, the nested file has the tensors of the dense one.
        holds = name == "n" and masks == "header"
        found = metadata(tmp_path / name)
        assert found.items() >= BASE.items()
        assert (set(HASHES) <= set(found)) == holds
        assert bool(set(HASHES) & set(found)) == holds


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    model(tmp_path / "m.safetensors", {"sshs_model_hash": "1", "modelspec.hash_sha256": "2"})
    run("sparsify m.safetensors --levels 0.5,0.9 -o n", tmp_path)
    line = "left out of the metadata, since it holds for dense alone: "
    keys = ["modelspec.hash_sha256", "sshs_model_hash"]
    for level, output in (("0.9", "s"), ("0.5,dense", "s-{level}")):
        done = elsa("extract", "n", "--level", level, "-o", output, cwd=tmp_path)
        assert line + ", ".join(keys) in done.stderr.decode().splitlines()
        report = elsa("extract", "n", "--level", level, "-o", output, "--json", cwd=tmp_path)
        assert json.loads(report.stdout)["dropped_metadata"] == keys
        assert not elsa("extract", "n", "--level", level, "-o", output, "-q", cwd=tmp_path).stderr
    assert metadata(tmp_path / "s-dense")["sshs_model_hash"] == "1"
    assert "sshs_model_hash" not in metadata(tmp_path / "s-0.5")
    done = elsa("extract", "n", "--level", "dense", "-o", "d", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["dropped_metadata"] == []
    assert b"left out" not in done.stderr


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("prefix", ["elsa.", "elsa.mask.0.", "elsa.level.", "elsa.shell.dense."])
def test_a_network_may_have_a_module_called_elsa(prefix: str, masks: str, tmp_path: Path) -> None:
    plain = model(tmp_path / "m", {"format": "pt"}, prefix)
    run(f"sparsify m --levels 0.5,0.9 --masks {masks} -o n", tmp_path)
    run("pack n -o p", tmp_path)
    run("pack --unpack p -o u", tmp_path)
    assert (tmp_path / "u").read_bytes() == (tmp_path / "n").read_bytes()
    assert [t["name"] for t in manifest_of(tmp_path / "n")["tensors"]] == [
        f"{prefix}up.weight",
        f"{prefix}weight",
    ]
    for source in ("n", "p"):
        run(f"verify {source}", tmp_path)
        run(f"extract {source} --level dense -o d", tmp_path)
        assert (tmp_path / "d").read_bytes() == plain.read_bytes()
        run(f"extract {source} --level 0.9 -o s-{source}", tmp_path)
    assert (tmp_path / "s-n").read_bytes() == (tmp_path / "s-p").read_bytes()


def test_a_tensor_with_a_name_of_the_format(tmp_path: Path) -> None:
    data = bytes(64)
    write_safetensors(tmp_path / "m", [("elsa.mask.0.9", "F32", (4, 4), data)], {})
    done = elsa("sparsify", "m", "--levels", "0.5", "-o", "n", cwd=tmp_path)
    assert done.returncode == 1
    message = one_line(done.stderr)
    assert message.startswith("Error: m: elsa.mask.0.9: the name is reserved")
    assert message.endswith("; rename the tensor")
    assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("text", ["", "{", "null", '{"version": 1}', "{}", "[]"])
def test_a_damaged_manifest_is_no_plain_file(text: str, masks: str, tmp_path: Path) -> None:
    model(tmp_path / "m", {"note": "kept"})
    run(f"sparsify m --levels 0.5 --masks {masks} -o n", tmp_path)
    for name in ("n", "p"):
        if name == "p":
            run("pack n -o p", tmp_path)
        tensors, found = read_safetensors(tmp_path / name)
        write_safetensors(
            tmp_path / "damaged",
            [(key, *value) for key, value in tensors.items()],
            {**found, "elsa": text},
        )
        for line in ("verify damaged", "inspect damaged", "sparsify damaged --levels 0.5 -o x"):
            done = elsa(*line.split(), cwd=tmp_path)
            assert done.returncode == 1
            assert "damaged: the manifest is damaged" in one_line(done.stderr)
