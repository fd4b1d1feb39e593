"""A save is read as it was written, or refused in one line."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from elsa_cli.errors import InputError, OutputError, UsageError
from elsa_cli.training.resume import ENDING, VERSION, Saves
from tests.training.tiny import same

FACTS = {"lr": "(0.1,)", "seed": "0", "checkpoint": "abc"}


def state() -> dict[str, Any]:
    """Return tensors of every kind that a save has, with bits that values hide."""
    payload = torch.tensor([0x7FC0_1234, -(2**31)], dtype=torch.int32).view(torch.float32)
    return {
        "phase": 2,
        "position": [3, 0, 3],
        "values": {
            "w": payload,
            "b": torch.tensor([1.5], dtype=torch.bfloat16),
            "8": torch.ones(3).to(torch.float8_e4m3fn),
            "n": torch.tensor(7),
        },
        "owner": {"w": torch.tensor([0, 2], dtype=torch.uint8)},
        "live": {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{}]}},
        "reports": [{"phase": "0.9", "loss": None, "metrics": {"a": float("inf")}}],
        "mark": 5,
    }


def saved(folder: Path, **facts: str) -> Saves:
    saves = Saves(str(folder / "out.safetensors"), {**FACTS, **facts})
    saves.write(state())
    return saves


def test_a_save_is_read_as_it_was_written(tmp_path: Path) -> None:
    saves = saved(tmp_path)
    assert saves.path == str(tmp_path / "out.safetensors") + ENDING
    assert os.listdir(tmp_path) == ["out.safetensors.resume"]
    found, wanted = saves.read(), state()
    assert found is not None
    for group in ("values", "owner"):
        assert list(found[group]) == list(wanted[group])
        assert all(same(found[group][n], t) for n, t in wanted[group].items())
    for name in ("phase", "position", "reports", "mark"):
        assert found[name] == wanted[name]
    assert found["live"]["optimizer"]["state"][0]["step"].item() == 1.0


def test_no_save(tmp_path: Path) -> None:
    saves = Saves(str(tmp_path / "out"), FACTS)
    assert not saves.exists
    assert saves.read() is None
    saves.refuse_leftover()
    saves.remove()


def test_a_save_is_replaced_and_removed(tmp_path: Path) -> None:
    saves = saved(tmp_path)
    saves.write({**state(), "phase": 3})
    found = saves.read()
    assert found is not None
    assert found["phase"] == 3
    assert saves.exists
    saves.remove()
    assert os.listdir(tmp_path) == []


def test_a_left_over_save_is_not_thrown_away(tmp_path: Path) -> None:
    saves = saved(tmp_path)
    with pytest.raises(UsageError) as caught:
        saves.refuse_leftover()
    assert str(caught.value) == (
        f"{saves.path}: is the save of an interrupted run; add resume=True to continue it, or "
        "delete it"
    )
    assert saves.exists


def test_the_save_of_another_run_says_what_differs(tmp_path: Path) -> None:
    saved(tmp_path)
    other = {"lr": "(0.2,)", "seed": "0", "setting threads": "2"}
    with pytest.raises(UsageError) as caught:
        Saves(str(tmp_path / "out.safetensors"), other).read()
    assert str(caught.value) == (
        f"{tmp_path}/out.safetensors.resume: is the save of another run: checkpoint was "
        "abc, is None; lr was (0.1,), is (0.2,); setting threads was None, is 2; use the same "
        "options, or delete it to start from the beginning"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", FACTS)
def test_each_fact_counts(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(UsageError, match=rf"another run: {name} was .*, is other;"):
        Saves(str(tmp_path / "out.safetensors"), {**FACTS, name: "other"}).read()


def test_another_machine_is_told_and_no_matter(tmp_path: Path) -> None:
    here = {"processes": "2", "device": "cuda", "threads": "8"}
    output = str(tmp_path / "out.safetensors")
    Saves(output, FACTS, here).write(state())
    same_place = Saves(output, FACTS, here)
    found = same_place.read()
    assert found is not None
    assert same_place.elsewhere(found) == []
    elsewhere = Saves(output, FACTS, {**here, "processes": "1", "device": "cpu"})
    found = elsewhere.read()
    assert found is not None
    assert elsewhere.elsewhere(found) == [
        "device was cuda, is cpu; processes was 2, is 1: the bits may differ from those of "
        "an uninterrupted run"
    ]


def test_a_save_of_another_version(tmp_path: Path) -> None:
    saves = saved(tmp_path)
    torch.save({"version": VERSION + 1, "facts": FACTS}, saves.path)
    with pytest.raises(InputError, match=rf"was saved by another version \({VERSION + 1}\); del"):
        saves.read()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"nonsense",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q\x00.",
        b"\x80\x02]q\x00.",
        bytes(5000),
    ],
)
def test_a_file_that_is_no_save(damage: bytes, tmp_path: Path) -> None:
    saves = saved(tmp_path)
    Path(saves.path).write_bytes(damage)
    with pytest.raises(InputError, match=r"resume: cannot be read \(.*\); delete it to start from"):
        saves.read()


def test_a_save_that_is_cut(tmp_path: Path) -> None:
    saves = saved(tmp_path)
    whole = Path(saves.path).read_bytes()
    for size in range(0, len(whole), len(whole) // 60):
        Path(saves.path).write_bytes(whole[:size])
        with pytest.raises(InputError, match="cannot be read"):
            saves.read()


def test_a_save_with_flipped_bits_never_ends_in_another_error(tmp_path: Path) -> None:
    saves = saved(tmp_path)
    whole = Path(saves.path).read_bytes()
    for at in range(0, len(whole), len(whole) // 200):
        Path(saves.path).write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(InputError, UsageError):
            saves.read()


def test_weights_of_other_objects_are_not_run(tmp_path: Path) -> None:
    """A save is data: what it names is not called."""
    saves = saved(tmp_path)
    torch.save({"version": VERSION, "facts": FACTS, "x": Path("x")}, saves.path)
    with pytest.raises(InputError, match="cannot be read"):
        saves.read()


def test_a_save_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = saved(tmp_path)
    whole = Path(saves.path).read_bytes()

    def full(state: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError):
        saves.write(state())
    assert Path(saves.path).read_bytes() == whole
    assert os.listdir(tmp_path) == ["out.safetensors.resume"]


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder does not exist"):
        Saves(str(tmp_path / "nix" / "out"), FACTS).write(state())
