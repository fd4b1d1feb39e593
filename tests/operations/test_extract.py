"""Extract: from nested, packed and cut files."""

from __future__ import annotations

from pathlib import Path

import pytest

from elsa_cli import ElsaError, extract, pack, sparsify
from elsa_cli.errors import (
    CutFile,
    LevelNotStored,
    NotNested,
    OutputError,
    OutputExists,
    UsageError,
)
from tests.helpers import library_order, read_safetensors
from tests.operations.models import (
    LEVELS,
    assert_network,
    every_dtype,
    network,
    save,
    small_pieces,
    stored_masks,
    zeroed,
)


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    source = save(tmp_path / "m.safetensors", network())
    sparsify(source, LEVELS)
    return tmp_path / "m.elsa.safetensors"


@pytest.fixture
def packed(nested: Path) -> Path:
    return Path(pack(nested).output)


@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_from_nested_and_packed_alike(
    masks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [*network(), *every_dtype()]
    source = save(tmp_path / "m.safetensors", tensors)
    sparsify(source, LEVELS, masks=masks)
    nested = tmp_path / "m.elsa.safetensors"
    packed = pack(nested).output
    for level in LEVELS:
        expected = zeroed(tensors, stored_masks(nested, level))
        extract(nested, level, tmp_path / "x")
        assert_network(tmp_path / "x", expected)
        first = (tmp_path / "x").read_bytes()
        with monkeypatch.context() as patch:
            for size in (1 << 18, 72):
                small_pieces(patch, size)
                for file, threads in ((nested, 3), (packed, 1), (packed, 3)):
                    extract(file, level, tmp_path / "x", threads=threads)
                    assert (tmp_path / "x").read_bytes() == first


def test_dense_is_the_original_in_the_librarys_order(tmp_path: Path) -> None:
    tensors = library_order([*network(), *every_dtype()])
    source = save(tmp_path / "m.safetensors", tensors)
    sparsify(source, "0.5")
    for file in ("m.elsa.safetensors", pack(tmp_path / "m.elsa.safetensors").output):
        extract(tmp_path / file, "dense", tmp_path / "x")
        assert list(read_safetensors(tmp_path / "x")[0]) == [t[0] for t in tensors]
        assert_network(tmp_path / "x", zeroed(tensors, {}))


def test_several_levels_and_names(nested: Path, tmp_path: Path) -> None:
    report = extract(nested, "0.5,dense,0.9")
    names = ["m-0.9.safetensors", "m-0.5.safetensors", "m-dense.safetensors"]
    assert [w.output for w in report.written] == [str(tmp_path / n) for n in names]
    assert [w.level.text for w in report.written] == ["0.9", "0.5", "dense"]
    assert [w.kept for w in report.written][-1] == report.prunable
    for w in report.written:
        assert w.bytes_out == Path(w.output).stat().st_size


def test_template(nested: Path, tmp_path: Path) -> None:
    extract(nested, ["0.5", 0.9], tmp_path / "a{level}b")
    assert (tmp_path / "a0.5b").exists()
    assert (tmp_path / "a0.9b").exists()
    with pytest.raises(UsageError, match=r"2 levels cannot all go to .*\{level\}"):
        extract(nested, "0.5,0.9", tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_level_that_is_not_stored(nested: Path, packed: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    for file in (nested, packed):
        with pytest.raises(LevelNotStored, match=r"stored are 0\.9, 0\.7, 0\.5, dense"):
            extract(file, "0.9,0.8", tmp_path / "{level}")
    assert sorted(tmp_path.iterdir()) == before


def test_a_plain_checkpoint(nested: Path, tmp_path: Path) -> None:
    with pytest.raises(NotNested, match=r"make them with sparsify\(\) first$"):
        extract(tmp_path / "m.safetensors", "0.5")


def test_a_prefix_is_a_packed_file_of_its_levels(
    nested: Path, packed: Path, tmp_path: Path
) -> None:
    prefixes = pack(nested, tmp_path / "again").prefix
    raw = packed.read_bytes()
    assert prefixes[-1] == len(raw)
    every = (*LEVELS, "dense")
    cut = tmp_path / "cut"
    for at, prefix in enumerate(prefixes):
        # Right behind the level, and in the middle of the next one.
        for end in {prefix, min(prefix + 9, len(raw))}:
            cut.write_bytes(raw[:end])
            for level in every[: at + 1]:
                extract(cut, level, tmp_path / "x")
                extract(nested, level, tmp_path / "y")
                assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
            for level in every[at + 1 :] if end == prefix else []:
                with pytest.raises(CutFile, match=f"level {level} needs the first [0-9,]+ bytes"):
                    extract(cut, level, tmp_path / "z")
    cut.write_bytes(raw[: prefixes[0] - 1])
    with pytest.raises(CutFile):
        extract(cut, "0.9", tmp_path / "z")
    assert not (tmp_path / "z").exists()


def test_bytes_behind_the_prefix_do_not_matter(nested: Path, packed: Path, tmp_path: Path) -> None:
    prefixes = pack(nested, tmp_path / "again").prefix
    raw = packed.read_bytes()
    for level, prefix in zip(LEVELS, prefixes, strict=False):
        extract(packed, level, tmp_path / "x")
        noise = bytes(b ^ 0xA5 for b in raw[prefix:])
        (tmp_path / "noise").write_bytes(raw[:prefix] + noise)
        extract(tmp_path / "noise", level, tmp_path / "y")
        assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_outputs_that_may_not_be_written(nested: Path, tmp_path: Path) -> None:
    before = nested.read_bytes()
    (tmp_path / "there").write_bytes(b"old")
    cases: list[tuple[Path, bool, type[ElsaError]]] = [
        (nested, True, UsageError),
        (tmp_path / "there", False, OutputExists),
        (tmp_path, True, OutputError),
        (tmp_path / "none" / "x", True, OutputError),
    ]
    for path, clobber, error in cases:
        with pytest.raises(error):
            extract(nested, "0.5", path, clobber=clobber)
    assert nested.read_bytes() == before
    assert (tmp_path / "there").read_bytes() == b"old"
    extract(nested, "0.5", nested, force=True)
    with pytest.raises(NotNested):
        extract(nested, "0.5")


def test_progress_adds_up_to_its_total(nested: Path, packed: Path, tmp_path: Path) -> None:
    for file in (nested, packed):
        totals: list[int] = []
        steps: list[int] = []

        def progress(
            done: int,
            total: int | None = None,
            *,
            totals: list[int] = totals,
            steps: list[int] = steps,
        ) -> None:
            if total is not None:
                totals.append(total)
            steps.append(done)

        report = extract(file, "0.5,0.9", tmp_path / "{level}", progress=progress)
        header = [
            int.from_bytes(Path(w.output).read_bytes()[:8], "little") + 8 for w in report.written
        ]
        assert totals == [sum(w.bytes_out for w in report.written)]
        assert sum(steps) == totals[0] - sum(header)
