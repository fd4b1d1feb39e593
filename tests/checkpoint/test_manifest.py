from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elsa_cli.checkpoint.deflate import encode_text
from elsa_cli.checkpoint.manifest_reading import decode, find_manifest
from elsa_cli.checkpoint.opening import open_any
from elsa_cli.core.level import DENSE, parse_level
from elsa_cli.errors import BadManifest, LevelNotStored, UnknownVersion
from tests.helpers import strict_json
from tests.networks import edit, make, manifest_of, widen, write_nested, write_pack

NET = make()


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen(write_nested(tmp_path_factory.mktemp("manifest") / "nested", NET))


@pytest.fixture(scope="module")
def packed(nested: Path) -> Path:
    return widen(write_pack(nested.with_name("packed"), nested))


def test_it_is_canonical_and_goes_round(nested: Path, packed: Path) -> None:
    for path in (nested, packed):
        text = json.dumps(manifest_of(path), ensure_ascii=False)
        encoded = decode(text, "f").encode()
        assert encoded == json.dumps(
            json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        assert decode(encoded, "f") == decode(text, "f")


def test_what_it_says(nested: Path, packed: Path) -> None:
    manifest = decode(json.dumps(manifest_of(nested)), "f")
    assert [str(level) for level in manifest.levels] == ["0.9", "0.7", "0.5"]
    assert manifest.kind == "nested"
    assert manifest.prunable == sum(m.size for m in NET.masks["0.9"].values())
    for level, masks in NET.masks.items():
        kept = sum(int(m.sum()) for m in masks.values())
        assert manifest.kept(parse_level(level)) == kept
    assert manifest.kept(DENSE) == manifest.prunable
    assert manifest.per_level == ("norm.bias", "norm.weight", "steps")
    assert decode(json.dumps(manifest_of(packed)), "f").kind == "packed"


def test_options_that_json_cannot_hold(nested: Path) -> None:
    """An option of a method may be infinite, or a text of the command line that is no UTF-8."""
    manifest = decode(json.dumps(manifest_of(nested)), "f")
    options = {"cap": float("inf"), "name": "a\udcff"}
    text = replace(manifest, method={"name": "m", "options": options}).encode()
    assert strict_json(text)["method"]["options"] == {"cap": None, "name": r"a\xff"}
    assert decode(text, "f").encode() == text


@pytest.mark.parametrize("field", ["mask_digests", "per_level"])
def test_texts_that_no_file_can_hold(nested: Path, field: str) -> None:
    """JSON can spell half of a character; written again, it would be no UTF-8."""
    fields = manifest_of(nested)
    fields[field][0] = "\ud800"
    with pytest.raises(BadManifest, match="surrogates not allowed"):
        decode(json.dumps(fields), "f")


def test_find(nested: Path) -> None:
    manifest = decode(json.dumps(manifest_of(nested)), "f")
    assert str(manifest.find(parse_level("70%"), "f")) == "0.7"
    assert manifest.find(DENSE, "f") is DENSE
    with pytest.raises(LevelNotStored) as caught:
        manifest.find(parse_level("0.8"), "m.safetensors")
    message = "m.safetensors: level 0.8 is not stored; stored are 0.9, 0.7, 0.5, dense"
    assert str(caught.value) == message


def test_the_longest_manifest_is_no_shorter_than_any(nested: Path) -> None:
    manifest = decode(json.dumps(manifest_of(nested)), "f")
    bare = replace(
        manifest,
        mask_digests=(),
        tensors=tuple(replace(t, kept=(), digest="") for t in manifest.tensors),
    )
    assert bare.longest() == manifest.longest()
    assert len(bare.longest().encode()) >= len(manifest.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "1",
        "null",
        '"version"',
        "[]",
        '{"version": 1}',
        '{"kind": "nested"}',
        "[" * 100_000,
    ],
    ids=range(9),
)
@pytest.mark.parametrize(
    "mask", [None, "", "1", "note", "not base64", "YWJjZGVmZ2g=", "AwA", "AwA=AwA=", "é"]
)
def test_what_others_put_under_the_key(text: str, mask: str | None) -> None:
    metadata = {"elsa": text, "elsa.note": "AwA="}
    if mask is not None:
        metadata["elsa.mask.0.9"] = mask
    assert find_manifest(metadata, ["elsa.weight", "elsa.mask.0", "w"], "f") is None
    assert find_manifest({k: v for k, v in metadata.items() if k != "elsa"}, ["w"], "f") is None


@pytest.mark.parametrize("text", ["", "{", "null", '{"version": 1}', '{"version": 3}', "[]"])
@pytest.mark.parametrize("place", ["header", "mask", "shell", "dense"])
def test_masks_tell_a_damaged_manifest_from_that_of_others(text: str, place: str) -> None:
    metadata = {"elsa": text}
    names = ["w"]
    if place == "header":
        metadata["elsa.mask.0.9"] = encode_text(bytes(2_000_000))
    else:
        own = {"mask": "mask.0.9", "shell": "shell.0.9.mask", "dense": "shell.dense.values"}
        names.append(f"elsa.{own[place]}")
    with pytest.raises((BadManifest, UnknownVersion)):
        find_manifest(metadata, names, "f")


@pytest.mark.parametrize("text", ['{"version":1,"kind":"nested"}', '{"version":1,"kind":null}'])
def test_a_manifest_that_says_what_it_is_is_ours(text: str) -> None:
    with pytest.raises(BadManifest):
        find_manifest({"elsa": text}, ["w"], "f")


@pytest.mark.parametrize("version", [2, 0, "1", "x", None, [1], 99])
def test_another_version_is_named(nested: Path, tmp_path: Path, version: Any) -> None:
    path = tmp_path / "later"
    path.write_bytes(nested.read_bytes())
    # what else a later version holds does not matter
    edit(path, {"version": version, "kind": "woven"})
    with pytest.raises(UnknownVersion, match="later elsa-cli") as caught:
        open_any(path)
    assert str(path) in str(caught.value)
    assert f"version {version!r}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "x", "[]", "3", "null", '"version"', "{}", "[" * 100_000])
def test_what_is_no_manifest(text: str) -> None:
    with pytest.raises(BadManifest, match=r"m\.safetensors: the manifest is damaged"):
        decode(text, "m.safetensors")


Change = Callable[[dict[str, Any]], object]


def _set(*path: Any) -> Change:
    """Set the value at the path that all but the last give."""

    def change(fields: dict[str, Any]) -> None:
        node: Any = fields
        for key in path[:-2]:
            node = node[key]
        node[path[-2]] = path[-1]

    return change


BOTH: dict[str, Change] = {
    "kind": _set("kind", "woven"),
    "levels out of order": _set("levels", ["0.5", "0.7", "0.9"]),
    "levels equal": _set("levels", ["0.9", "0.9", "0.5"]),
    "levels with dense": _set("levels", ["0.9", "0.5", "dense"]),
    "no levels": _set("levels", []),
    "fewer levels": _set("levels", ["0.9", "0.7"]),
    "numbers for levels": _set("levels", [0.9, 0.7, 0.5]),
    "masks": _set("masks", "elsewhere"),
    "mask_digests too few": _set("mask_digests", []),
    "mask_digests no text": _set("mask_digests", [1, 2, 3]),
    "method": _set("method", "magnitude"),
    "seed negative": _set("seed", -1),
    "seed true": _set("seed", True),
    "seed text": _set("seed", "0"),
    "per_level not there": _set("per_level", ["norm.mean"]),
    "per_level prunable": _set("per_level", ["fc.weight"]),
    "per_level no text": _set("per_level", [1]),
    "tensors no list": _set("tensors", {"name": "fc.weight"}),
    "entry no object": _set("tensors", 0, "fc.weight"),
    "entry twice": lambda fields: fields["tensors"].append(fields["tensors"][0]),
    "entry is a shared one": _set("tensors", 0, "name", "table.weight"),
    "entry is ours": _set("tensors", 0, "name", "elsa.mask.0.3"),
    "name no text": _set("tensors", 0, "name", 3),
    "dtype unknown": _set("tensors", 0, "dtype", "F7"),
    "dtype other": _set("tensors", 0, "dtype", "F64"),
    "dtype not prunable": _set("tensors", 0, "dtype", "I32"),
    "shape other": _set("tensors", 0, "shape", [8, 3, 3]),
    "shape negative": _set("tensors", 0, "shape", [-8, -3, 3, 3]),
    "shape no number": _set("tensors", 0, "shape", ["8", 3, 3, 3]),
    "kept falling": _set("tensors", 0, "kept", [65, 22, 108]),
    "kept over all": _set("tensors", 0, "kept", [22, 65, 217]),
    "kept negative": _set("tensors", 0, "kept", [-1, 65, 108]),
    "kept too few": _set("tensors", 0, "kept", [22, 65]),
    "kept a fraction": _set("tensors", 0, "kept", [21.0, 65, 108]),
    "digest no text": _set("tensors", 0, "digest", None),
}
PACKED: dict[str, Change] = {
    "coded negative": _set("tensors", 0, "coded", [-1, 1, 1]),
    "coded too few": _set("tensors", 0, "coded", [29, 27]),
    "coded too much": _set("tensors", 0, "coded", [2900, 27, 21]),
    "kept other": _set("tensors", 0, "kept", [10, 65, 108]),
    "prefix other": lambda fields: fields["prefix"].reverse(),
    "prefix too few": lambda fields: fields["prefix"].pop(),
    "prefix negative": _set("prefix", 0, -1),
    "section_digests no map": _set("section_digests", []),
    "section_digests no text": _set("section_digests", {"0.9": 1}),
    "entry missing": lambda fields: fields["tensors"].pop(),
    "kind nested": _set("kind", "nested"),
}


@pytest.mark.parametrize("case", BOTH)
def test_a_damaged_manifest_of_a_nested_file(nested: Path, tmp_path: Path, case: str) -> None:
    refused(nested, tmp_path, BOTH[case])


@pytest.mark.parametrize("case", [*BOTH, *PACKED])
def test_a_damaged_manifest_of_a_packed_file(packed: Path, tmp_path: Path, case: str) -> None:
    refused(packed, tmp_path, {**BOTH, **PACKED}[case])


@pytest.mark.parametrize(
    "field",
    ["kind", "levels", "masks", "mask_digests", "method", "seed", "per_level", "tensors"],
)
def test_a_missing_field(nested: Path, packed: Path, tmp_path: Path, field: str) -> None:
    for path in (nested, packed):
        refused(path, tmp_path, lambda fields: fields.pop(field))


def refused(path: Path, folder: Path, change: Change) -> None:
    """A file with a changed manifest cannot be opened, for that reason."""
    damaged = folder / "damaged"
    damaged.write_bytes(path.read_bytes())
    fields = manifest_of(path)
    change(fields)
    assert fields != manifest_of(path)
    edit(damaged, fields)
    with pytest.raises(BadManifest) as caught:
        open_any(damaged).close()
    assert str(damaged) in str(caught.value)
    edit(damaged, manifest_of(path))
    open_any(damaged).close()
