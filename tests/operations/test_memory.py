"""Nested checkpoints in memory are the files they came from, and go back to the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from elsa_cli import load_level, open_nested, pack, sparsify, verify
from elsa_cli.core.level import DENSE, parse_levels
from elsa_cli.errors import AlreadyNested, CutFile, NonFinite, NotNested, UsageError
from elsa_cli.models.recipe import Recipe
from elsa_cli.operations._memory import (
    Source,
    choose_again,
    digest_of,
    from_nested,
    from_plain,
    from_state,
    write,
)
from elsa_cli.operations.freeze_train import freeze_train
from elsa_cli.selection.eligible import Wanted
from elsa_cli.storage.output import OutputFile
from elsa_cli.training.events import PhaseReport, Watcher
from elsa_cli.training.options import TrainOptions
from tests.helpers import FLOATS, Tensor, library_order, read_safetensors
from tests.operations.models import LEVELS, every_dtype, network, save
from tests.training.tiny import WHOLE, assert_same, clean_imports, random_owner, raw, write_recipe

STAGES = parse_levels(LEVELS)
TEXT = ",".join(LEVELS)
RULES: list[dict[str, Any]] = [
    {},
    {"scope": "layer"},
    {"distribution": "uniform"},
    {"distribution": "erk"},
    {"group": 4},
]
NOT_IN_TORCH = ("F4", "F6_E2M3", "F6_E3M2")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with clean_imports():
        yield


def tensors(kind: str = "normal") -> list[Tensor]:
    """Return matrices of all floats, and other tensors of every dtype that torch has."""
    rest = [t for t in every_dtype() if t[1] not in (*NOT_IN_TORCH, *FLOATS)]
    return [*network(list(FLOATS), kind=kind), *rest]


def plain(folder: Path, kind: str = "normal") -> Path:
    return save(folder / "m.safetensors", library_order(tensors(kind)))


def store(source: Source, path: Path) -> int:
    with OutputFile(path) as out:
        size = write(source, out)
        out.commit()
    assert size == path.stat().st_size
    return size


def fresh(source: Source, seed: int = 0) -> None:
    """Give the prunable tensors other values of the same dtypes."""
    generator = torch.Generator().manual_seed(seed)
    for name, owner in source.nested.owner.items():
        value = source.nested.values[name]
        drawn = torch.randn(owner.shape, generator=generator)
        source.nested.values[name] = drawn.to(value.dtype)


def own_tensors(source: Source) -> None:
    """Give each level tensors of its own."""
    for at, level in enumerate(source.nested.levels):
        source.nested.per_level[level] = {
            "conv.bias": torch.full((8,), float(at)),
            "steps": torch.tensor(at),
        }


# Reading.


@pytest.mark.parametrize("masks", ["header", "tensors", "packed"])
def test_a_nested_file_in_memory(masks: str, tmp_path: Path) -> None:
    path = tmp_path / "nested"
    sparsify(plain(tmp_path), TEXT, path, masks="auto" if masks == "packed" else masks, seed=3)
    if masks == "packed":
        path = Path(pack(path, tmp_path / "packed").output)
    source = from_nested(path)
    nested = source.nested
    assert nested.levels == STAGES
    assert nested.per_level == {}
    assert source.metadata == {"format": "pt", "note": "kept"}
    assert (source.method["name"], source.seed) == ("magnitude", 3)
    with open_nested(path) as opened:
        assert tuple(nested.owner) == opened.prunable
        for stage, level in enumerate(STAGES):
            for name, owner in nested.owner.items():
                assert owner.dtype == torch.uint8
                assert ((owner <= stage).numpy() == opened.mask(level, name)).all()
            assert_same(nested.state(level), load_level(path, level))
        assert_same(nested.values, load_level(path, "dense"))


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    sparsify(plain(tmp_path), TEXT, tmp_path / "nested")
    nested = from_nested(tmp_path / "nested").nested
    for tensor in (*nested.values.values(), *nested.owner.values()):
        if tensor.numel():
            tensor.view(-1)[0] = tensor.view(-1)[-1]


def test_a_plain_file_is_what_is_not_nested(tmp_path: Path) -> None:
    source = plain(tmp_path)
    with pytest.raises(NotNested):
        from_nested(source)
    sparsify(source, TEXT, tmp_path / "nested")
    with pytest.raises(AlreadyNested):
        from_plain(tmp_path / "nested", STAGES)


def test_a_packed_file_that_is_cut(tmp_path: Path) -> None:
    sparsify(plain(tmp_path), TEXT, tmp_path / "nested")
    report = pack(tmp_path / "nested", tmp_path / "packed")
    (tmp_path / "cut").write_bytes(Path(report.output).read_bytes()[: report.prefix[1]])
    with pytest.raises(CutFile):
        from_nested(tmp_path / "cut")


# Choosing.


@pytest.mark.parametrize("kind", ["normal", "ties", "weird"])
@pytest.mark.parametrize(
    ("include", "exclude"), [((), ()), (("*fc*",), ()), ((), ("F32.*", "*conv*"))]
)
def test_a_plain_file_is_chosen_as_sparsify_does(
    include: Sequence[str], exclude: Sequence[str], kind: str, tmp_path: Path
) -> None:
    """The same bytes, manifest and all."""
    path = plain(tmp_path, kind)
    sparsify(path, TEXT, tmp_path / "wanted", include=include, exclude=exclude)
    store(from_plain(path, STAGES, Wanted(include, exclude)), tmp_path / "found")
    assert (tmp_path / "found").read_bytes() == (tmp_path / "wanted").read_bytes()


def test_a_state_is_chosen_as_a_file(tmp_path: Path) -> None:
    """Also where it is laid out otherwise in memory."""
    path = plain(tmp_path)
    wanted = from_plain(path, STAGES)
    state = dict(wanted.nested.values)
    name = "F32.conv.weight"
    state[name] = state[name].to(memory_format=torch.channels_last)
    state["F32.fc.weight"] = state["F32.fc.weight"].t().contiguous().t()
    before = set(Path(tempfile.gettempdir()).glob("elsa-*"))
    found = from_state(state, {"tied": "first"}, STAGES)
    assert set(Path(tempfile.gettempdir()).glob("elsa-*")) <= before
    assert_same(found.nested.owner, wanted.nested.owner)
    assert_same(found.nested.values, wanted.nested.values)
    assert found.metadata == {"tied": "first"}
    assert (found.method, found.seed, found.masks) == (wanted.method, 0, "auto")


def test_nothing_to_choose_from() -> None:
    with pytest.raises(UsageError, match="prunable"):
        from_state({"bias": torch.ones(4)}, {}, STAGES)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = {"good": torch.ones(8, 8), "bad": torch.full((8, 8), float("nan"))}
    with pytest.raises(NonFinite) as caught:
        from_state(state, {}, STAGES)
    assert caught.value.tensor == "bad"


def test_too_many_levels() -> None:
    levels = parse_levels([str(n / 1000) for n in range(1, 252)])
    with pytest.raises(UsageError, match=r"^251 levels are too many to train; use 250 at most"):
        from_state({"w": torch.randn(40, 40)}, {}, levels)
    source = from_state({"w": torch.randn(40, 40)}, {}, levels[:250])
    assert source.nested.owner["w"].max() == 250


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_masks_are_chosen_again_under_their_rule(
    rule: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    levels = "0.5,0.75" if "group" in rule else TEXT
    sparsify(plain(tmp_path), levels, tmp_path / "nested", method="random", seed=5, **rule)
    source = from_nested(tmp_path / "nested")
    if kind == "normal":
        fresh(source)
    else:
        for name, owner in source.nested.owner.items():
            value = source.nested.values[name]
            few = torch.tensor([0.5, -0.5, 1.0, 2.0])[torch.arange(owner.numel()) % 4]
            source.nested.values[name] = few.view(owner.shape).to(value.dtype)
    before = {n: o.clone() for n, o in source.nested.owner.items()}
    found = choose_again(source)
    assert_same(source.nested.owner, before)
    assert any(not torch.equal(found[name], owner) for name, owner in before.items())

    source.masks = "header"  # so that no masks are among the tensors
    store(source, tmp_path / "written")
    values, _ = read_safetensors(tmp_path / "written")
    save(tmp_path / "new", [(n, d, s, data) for n, (d, s, data) in values.items()])
    sparsify(tmp_path / "new", levels, tmp_path / "again", **rule)
    wanted = from_nested(tmp_path / "again")
    assert_same(found, wanted.nested.owner)
    assert source.method == wanted.method


def test_an_error_in_choosing_again_says_which_weights() -> None:
    source = from_state({"w": torch.randn(16, 16)}, {}, STAGES)
    source.nested.values["w"][3, 3] = float("inf")
    with pytest.raises(NonFinite, match=r"^the weights after the joint phase: w: "):
        choose_again(source)


# Writing.


@pytest.mark.parametrize("masks", ["header", "tensors"])
@pytest.mark.parametrize("kind", ["normal", "weird"])
def test_writing_gives_the_bytes_that_were_read(kind: str, masks: str, tmp_path: Path) -> None:
    path = tmp_path / "nested"
    sparsify(plain(tmp_path, kind), TEXT, path, masks=masks, method="random", seed=7)
    store(from_nested(path), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    pack(path, tmp_path / "packed")
    source = from_nested(tmp_path / "packed")
    source.masks = masks
    store(source, tmp_path / "third")
    assert (tmp_path / "third").read_bytes() == path.read_bytes()


def test_weights_masks_and_per_level_tensors_come_back(tmp_path: Path) -> None:
    source = from_plain(plain(tmp_path), STAGES)
    fresh(source)
    own_tensors(source)
    nested = source.nested
    for at, (name, owner) in enumerate(nested.owner.items()):
        nested.owner[name] = random_owner(owner.shape, TEXT, at)
    nested.values["F32.conv.weight"] = nested.values["F32.conv.weight"].to(
        memory_format=torch.channels_last
    )
    store(source, tmp_path / "trained")
    assert verify(tmp_path / "trained").ok
    for level in (*STAGES, DENSE):
        wanted = {n: t.contiguous() for n, t in nested.state(level).items()}
        assert_same(load_level(tmp_path / "trained", level), wanted)
    again = from_nested(tmp_path / "trained").nested
    assert_same(again.owner, nested.owner)
    assert_same(again.values, nested.values)
    for level in STAGES:
        assert_same(again.per_level[level], nested.per_level[level])
    assert_same(again.per_level[DENSE], {n: nested.values[n] for n in ("conv.bias", "steps")})


def test_threads_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plain(tmp_path)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("elsa_cli.operations._memory.default_threads", lambda n=threads: n)
        store(from_plain(path, STAGES), tmp_path / "out")
        found.append((tmp_path / "out").read_bytes())
    assert found[0] == found[1]


# What a save compares.


def test_a_digest_is_the_same_for_the_same() -> None:
    first, second = (
        from_state({"w": torch.ones(8, 8) * 2, "b": torch.ones(3)}, {}, STAGES) for _ in range(2)
    )
    assert digest_of(first.nested) == digest_of(second.nested)
    assert len(digest_of(first.nested)) == 16


@pytest.mark.parametrize("what", ["value", "sign", "bias", "mask", "levels", "own"])
def test_a_digest_sees_every_bit(what: str) -> None:
    torch.manual_seed(0)
    state = {"w": torch.randn(8, 8), "b": torch.zeros(3)}
    nested = from_state(state, {}, STAGES).nested
    nested.per_level = {level: {"b": torch.zeros(3)} for level in STAGES}
    before = digest_of(nested)
    if what == "value":
        nested.values["w"].view(torch.int32)[7, 7] ^= 1
    elif what == "sign":
        nested.values["b"][0] = -0.0
    elif what == "bias":
        nested.values["b"][2] = 1.0
    elif what == "mask":
        nested.owner["w"][0, 0] ^= 1
    elif what == "levels":
        nested.levels = parse_levels("0.91,0.7,0.5")
    else:
        nested.per_level[STAGES[1]]["b"][1] = 2.0
    assert digest_of(nested) != before


# The whole of it.


class StopAfter(Watcher):
    """Ends the run behind a phase, as a crash would."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def finished(self, report: PhaseReport) -> None:
        self.ended = report.phase

    def stepped(self, tick: Any) -> None:
        if tick.phase == self.phase:
            raise ZeroDivisionError


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_a_run_that_went_on_behind_its_joint_phase_writes_the_same_file(
    method: str, tmp_path: Path
) -> None:
    """Masks chosen again, and how they were chosen: the manifest is part of the bits."""
    recipe = write_recipe(tmp_path, *WHOLE)
    options = TrainOptions(steps=(2,), joint_epochs=1.0, reselect=True)
    model, nested = tmp_path / "m.safetensors", tmp_path / "m.elsa.safetensors"
    generator = torch.Generator().manual_seed(0)
    state = Recipe(recipe).build_model().state_dict()
    save_file(
        {
            n: torch.randn(t.shape, generator=generator).abs() if t.is_floating_point() else t
            for n, t in state.items()
        },
        model,
    )
    sparsify(model, "0.8,0.5", nested, method=method)
    outs = [tmp_path / "whole", tmp_path / "resumed"]
    freeze_train(nested, recipe, outs[0], options=options, device="cpu")
    with pytest.raises(ZeroDivisionError):
        freeze_train(
            nested, recipe, outs[1], options=options, device="cpu", watcher=StopAfter("0.5")
        )
    assert Path(f"{outs[1]}.resume").exists()
    freeze_train(nested, recipe, outs[1], options=options, device="cpu", resume=True)
    assert outs[1].read_bytes() == outs[0].read_bytes()
    assert verify(outs[0]).ok
    assert from_nested(outs[0]).method["name"] == "magnitude"


def test_training_again_begins_with_what_each_level_has(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, *WHOLE)
    first, second = tmp_path / "first", tmp_path / "second"
    options = TrainOptions(steps=(3,))
    freeze_train(None, recipe, first, levels="0.8,0.5", options=options, device="cpu")
    freeze_train(first, recipe, second, options=TrainOptions(steps=(0,)), device="cpu")
    for level in ("0.8", "0.5", "dense"):
        assert_same(load_level(second, level), load_level(first, level))
    assert not torch.equal(
        raw(load_level(first, "0.8")["1.running_mean"]),
        raw(load_level(first, "dense")["1.running_mean"]),
    )
