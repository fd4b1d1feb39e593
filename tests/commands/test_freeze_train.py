"""`elsa freeze-train` as a user runs it: what it writes, from what, and that done levels stay."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from elsa_cli import load_level, open_nested, verify
from tests.commands.forkserver import Server
from tests.commands.tiny import LEVELS, write_model
from tests.helpers import read_safetensors, write_safetensors

torch = pytest.importorskip("torch")

LINE = ("freeze-train", "model.elsa.safetensors", "--recipe", "recipe.py")
TRAIN = (*LINE, "--epochs", "2", "--joint-epochs", "0")
OUT = "model.trained.elsa.safetensors"


def kept_networks(folder: Path) -> list[dict[str, bytes]]:
    """Return the networks that the recipe's evaluate was shown, in order, as bytes."""
    found = []
    for number in range(len(os.listdir(folder))):
        tensors, _ = read_safetensors(folder / str(number))
        found.append({name: data for name, (_, _, data) in tensors.items()})
    return found


def extracted(server: Server, folder: Path, file: str) -> list[dict[str, bytes]]:
    """Return every level of a file as the command line extracts it, as bytes."""
    done = server.run(
        "extract", file, "--level", ",".join(LEVELS), "-o", "x-{level}.safetensors", cwd=folder
    )
    assert done.code == 0, done.err
    found = []
    for level in LEVELS:
        tensors, metadata = read_safetensors(folder / f"x-{level}.safetensors")
        assert metadata == {"format": "pt", "note": "kept"}
        found.append({name: data for name, (_, _, data) in tensors.items()})
    return found


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer", "sgd", "--momentum", "0.9", "--weight-decay", "0.01"),
        ("--optimizer", "adamw", "--weight-decay", "0.1"),
        ("--norm", "shared"),
        ("--norm", "recalibrate", "--optimizer", "sgd", "--lr", "0.1"),
        ("--joint-epochs", "2", "--reselect"),
        ("--joint-epochs", "0", "--init", "zero"),
        ("--joint-lr", "0.02", "--joint-epochs", "1", "--lr", "0.01"),
        ("--precision", "bf16", "--accumulate", "2", "--clip-norm", "0.1"),
        ("--schedule", "constant", "--lr", "0.01,0.02,0.03,0.04"),
    ],
    ids=lambda options: options[0][2:] + "-" + options[1],
)
def test_extract_gives_the_network_that_its_stage_ended_with(
    server: Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    write_model(tmp_path)
    keep = tmp_path / "keep"
    keep.mkdir()
    done = server.run(*TRAIN, *options, cwd=tmp_path, env={"KEEP": str(keep)})
    assert done.code == 0, done.err
    assert done.out == f"{OUT}\n"
    stages = kept_networks(keep)
    assert len(stages) == len(LEVELS)
    assert extracted(server, tmp_path, OUT) == stages
    assert verify(tmp_path / OUT).ok
    assert len({stage["0.weight"] for stage in stages}) == len(LEVELS)  # every level was trained
    packed = server.run("pack", OUT, cwd=tmp_path)
    assert packed.code == 0
    assert extracted(server, tmp_path, packed.out.strip()) == stages


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_stored_dtypes_are_kept(server: Server, tmp_path: Path, dtype: str) -> None:
    write_model(tmp_path, getattr(torch, dtype))
    keep = tmp_path / "keep"
    keep.mkdir()
    done = server.run(*TRAIN, cwd=tmp_path, env={"KEEP": str(keep)})
    assert done.code == 0, done.err
    before, _ = read_safetensors(tmp_path / "model.safetensors")
    for number, level in enumerate(LEVELS):
        state = load_level(tmp_path / OUT, level)
        stage = {
            name: torch.frombuffer(bytearray(data), dtype=torch.float32)
            for name, data in kept_networks(keep)[number].items()
            if "num_batches" not in name
        }
        for name, (kind, shape, _) in before.items():
            assert (str(state[name].dtype), tuple(state[name].shape)) == (
                "torch.int64" if kind == "I64" else f"torch.{dtype}",
                shape,
            )
            if name in stage:  # what was measured is what is stored
                assert torch.equal(state[name].to(stage[name].dtype).reshape(-1), stage[name])


def test_the_masks_stay_and_the_same_run_gives_the_same_bytes(
    server: Server, tmp_path: Path
) -> None:
    write_model(tmp_path)
    for output in ("a", "b"):
        assert server.run(*TRAIN, "-o", output, "-q", cwd=tmp_path).code == 0
    assert server.run(*TRAIN, "-o", "c", "--seed", "1", cwd=tmp_path).code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    assert sorted(p.name for p in tmp_path.glob("*.resume")) == []
    with (
        open_nested(tmp_path / "a") as after,
        open_nested(tmp_path / "model.elsa.safetensors") as before,
    ):
        for level in LEVELS:
            for name in before.prunable:
                assert (before.mask(level, name) == after.mask(level, name)).all()


def test_a_plain_checkpoint_is_sparsified_first(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    first = server.run(*TRAIN, "-o", "a", cwd=tmp_path)
    plain = server.run(
        "freeze-train",
        "model.safetensors",
        "--levels",
        "50%,0.9,0.7",
        *TRAIN[2:],
        "-o",
        "b",
        cwd=tmp_path,
    )
    assert (first.code, plain.code) == (0, 0), plain.err
    (a, told_a), (b, told_b) = read_safetensors(tmp_path / "a"), read_safetensors(tmp_path / "b")
    by_names, by_model = json.loads(told_a.pop("elsa")), json.loads(told_b.pop("elsa"))
    assert by_names["method"]["roles"].pop("told_by") == "names"
    assert by_model["method"]["roles"].pop("told_by") == "the recipe's model"
    assert (a, told_a, by_names) == (b, told_b, by_model)


def test_without_a_checkpoint_the_new_model_is_trained(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.elsa.safetensors").unlink()
    line = ("freeze-train", "--recipe", "recipe.py", "--levels", "0.5", "--exclude", "7.weight")
    done = server.run(*line, "--steps", "3,5", "--set", "hidden=16", cwd=tmp_path)
    assert (done.code, done.out) == (0, "recipe.trained.elsa.safetensors\n"), done.err
    with open_nested(tmp_path / done.out.strip()) as opened:
        assert opened.prunable == ("0.weight", "4.weight")
        assert opened.load("dense")["4.weight"].shape == (16, 16)
    (tmp_path / "plain.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    again = ("freeze-train", "--recipe", "recipe.py", "--set", "hidden=16", "--steps", "1")
    silent = server.run(*again, cwd=tmp_path)
    assert silent.code == 0, silent.err  # takes the only nested checkpoint of the folder
    assert "using recipe.trained.elsa.safetensors" in silent.err


def test_reports(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    done = server.run(*TRAIN, "--json", "--log", "log.jsonl", "--log-every", "4", cwd=tmp_path)
    report = json.loads(done.out)
    assert report["output"] == OUT
    assert [row["level"] for row in report["levels"]] == list(LEVELS)
    assert [row["steps"] for row in report["levels"]] == [16] * 4
    for row in report["levels"]:
        assert set(row["metrics"]) == {"accuracy", "loss"}
        assert f"level {row['level']}: 16 steps" in done.err
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert [kinds.count(kind) for kind in ("step", "epoch", "phase")] == [16, 8, 4]
    assert lines[-1]["metrics"] == report["levels"][-1]["metrics"]
    quiet = server.run(*TRAIN, "-q", cwd=tmp_path)
    assert (quiet.code, quiet.err, quiet.out) == (0, "", f"{OUT}\n")


def test_a_packed_checkpoint_and_per_level_tensors_can_be_trained_again(
    server: Server, tmp_path: Path
) -> None:
    write_model(tmp_path)
    assert server.run(*TRAIN, cwd=tmp_path).code == 0
    assert server.run("pack", OUT, "-o", "packed", cwd=tmp_path).code == 0
    again = ("--recipe", "recipe.py", "--steps", "0")
    for name, output in ((OUT, "a"), ("packed", "b")):
        done = server.run("freeze-train", name, *again, "-o", output, cwd=tmp_path)
        assert done.code == 0, done.err
    before = extracted(server, tmp_path, OUT)
    assert extracted(server, tmp_path, "a") == before  # no step, nothing changed
    assert extracted(server, tmp_path, "b") == before


def test_no_training_leaves_every_level_as_it_was(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    done = server.run(*LINE, "--steps", "0", "-o", "same", cwd=tmp_path)
    assert done.code == 0
    assert (tmp_path / "same").read_bytes() == (tmp_path / "model.elsa.safetensors").read_bytes()


def test_most_steps_go_to_the_joint_phase_unless_its_length_is_given(
    server: Server, tmp_path: Path
) -> None:
    write_model(tmp_path)
    done = server.run(*LINE, "--steps", "10,10,20,30", "--json", "--log", "log", cwd=tmp_path)
    report = json.loads(done.out)
    assert report["joint"]["steps"] == 8 + 8 + 16 + 24
    assert [row["steps"] for row in report["levels"]] == [2, 2, 4, 6]
    first: dict[str, int] = {}
    for line in (tmp_path / "log").read_text().splitlines():
        fields = json.loads(line)
        if fields["kind"] == "epoch":
            first.setdefault(fields["phase"], fields["total"])
    assert set(first.values()) == {70}
    plain = server.run(*LINE, "--steps", "10", "--joint-epochs", "0", "--json", cwd=tmp_path)
    assert json.loads(plain.out)["joint"] is None
    assert [row["steps"] for row in json.loads(plain.out)["levels"]] == [10] * 4
    both = server.run(*LINE, "--steps", "10", "--joint-epochs", "1.5", "--json", cwd=tmp_path)
    assert json.loads(both.out)["joint"]["steps"] == 12
    assert [row["steps"] for row in json.loads(both.out)["levels"]] == [10] * 4


def test_a_hash_of_the_old_weights_is_left_out(server: Server, tmp_path: Path) -> None:
    path = write_model(tmp_path).with_name("model.safetensors")
    tensors, metadata = read_safetensors(path)
    entries = [(name, *value) for name, value in tensors.items()]
    write_safetensors(path, entries, {**metadata, "sshs_model_hash": "1", "elsa": "of others"})
    done = server.run("sparsify", path, "--levels", "0.5", "-o", "n", cwd=tmp_path)
    assert done.code == 0, done.err
    for source, options in (("n", ()), ("model.safetensors", ("--levels", "0.5"))):
        line = ("freeze-train", source, *options, *LINE[2:], "--steps", "1", "-o", "out")
        done = server.run(*line, cwd=tmp_path)
        assert done.code == 0, done.err
        assert "sshs_model_hash is left out" in done.err
        with open_nested(tmp_path / "out") as checkpoint:
            assert checkpoint.metadata == {**metadata, "elsa": "of others"}
