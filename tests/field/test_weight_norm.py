"""Weight norm and spectral norm: no row is lost, so that nothing is NaN (A5)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.field.tools import Field, normal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.nn.utils import weight_norm as old_weight_norm


def old(module: nn.Module, dim: int | None) -> nn.Module:
    """Return a module with the weight norm of earlier versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found: nn.Module = old_weight_norm(module, dim=dim)  # type: ignore[arg-type]
    return found


def new(module: nn.Module, dim: int | None) -> nn.Module:
    """Return a module with the weight norm of today."""
    found: nn.Module = parametrizations.weight_norm(module, dim=dim)  # type: ignore[arg-type]
    return found


STYLES: dict[str, tuple[Callable[[nn.Module, int | None], nn.Module], str, str]] = {
    "old": (old, "weight_g", "weight_v"),
    "new": (new, "parametrizations.weight.original0", "parametrizations.weight.original1"),
}
LEVELS = ("0.97", "0.9", "0.5")


def layer(style: str, dim: int | None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a convolution whose rows differ in size by four orders of magnitude."""
    torch.manual_seed(0)
    module = STYLES[style][0](nn.Conv1d(16, 32, 5), dim)
    vectors = module.get_parameter(STYLES[style][2])
    size = vectors.shape[dim or 0]
    shape = [size if at == (dim or 0) else 1 for at in range(3)]
    with torch.no_grad():
        vectors.mul_(torch.logspace(-3, 1, size).view(shape))
    return module.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [0, 1, 2, None])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_level_is_finite(
    field: Field, style: str, dim: int | None, dtype: torch.dtype, scope: str
) -> None:
    """Each row keeps its best weight at least, and the counts stay exact."""
    module = layer(style, dim, dtype)
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    _, sizes, vectors = STYLES[style]
    choice = field.sparsify(state, "--scope", scope, levels=",".join(LEVELS))
    assert choice.pruned == {vectors}
    assert choice.dense.keys() == {sizes, "bias"}
    assert choice.kept(vectors) == [round(2560 * part) for part in (0.03, 0.1, 0.5)]
    field.check_levels(state, choice)
    sparser = torch.zeros(32, 16, 5, dtype=torch.bool)
    for level in LEVELS:
        found = field.extract(level)
        kept = found[vectors] != 0
        assert (kept | ~sparser).all(), "levels nest"
        sparser = kept
        if dim is not None:
            rows = state[vectors].movedim(dim, 0).flatten(1)
            best = rows.abs().max(1, keepdim=True).values
            assert (found[vectors].movedim(dim, 0).flatten(1).abs() == best).any(1).all()
        module.load_state_dict(found)
        with torch.no_grad():
            assert module(normal(1, 16, 9).to(dtype)).isfinite().all()


@pytest.mark.parametrize("style", STYLES)
def test_a_recurrent_layer(field: Field, style: str) -> None:
    """Its weights have other names than `weight`, and so have their vectors."""
    torch.manual_seed(0)
    module: nn.Module = nn.LSTM(16, 8)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if style == "old":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                module = old_weight_norm(module, name)
        else:
            module = parametrizations.weight_norm(module, name)
    ends = ("_v", "original1")
    vectors = {name for name in module.state_dict() if name.endswith(ends)}
    with torch.no_grad():
        for name in vectors:
            module.get_parameter(name).mul_(torch.logspace(-3, 1, 32)[:, None])
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    choice = field.sparsify(state, levels="0.9")
    assert choice.pruned == vectors
    found = field.extract("0.9")
    for name in vectors:
        assert (found[name] != 0).any(1).all(), name
    module.load_state_dict(found)
    assert module(normal(3, 1, 16))[0].isfinite().all()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dim", [0, 1])
def test_groups_leave_no_row_empty(field: Field, style: str, dim: int) -> None:
    """A transposed convolution is normalised along its inputs, where groups run, too."""
    torch.manual_seed(0)
    module = STYLES[style][0](nn.ConvTranspose1d(16, 8, 4), dim)
    vectors = STYLES[style][2]
    with torch.no_grad():
        spread = torch.logspace(-3, 1, (16, 8)[dim])
        module.get_parameter(vectors).mul_(spread.view((-1, 1, 1) if dim == 0 else (1, -1, 1)))
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    options = ("--group", "4", "--group-dim", "0")
    field.sparsify({**state, "fc.weight": normal(8, 8)}, *options, levels="0.75,0.5")
    for level in ("0.75", "0.5"):
        found = field.extract(level)
        del found["fc.weight"]
        module.load_state_dict(found)
        assert module(normal(1, 16, 9)).isfinite().all(), level


@pytest.mark.parametrize("style", STYLES)
def test_the_sizes_of_a_weight_norm_are_a_norm(field: Field, style: str) -> None:
    choice = field.sparsify(dict(layer(style, 0).state_dict()))
    assert choice.dense == {STYLES[style][1]: "norm", "bias": "bias"}


@pytest.mark.parametrize("name", ["weight", "fc.weight", "0.parametrizations.weight.original0"])
def test_a_tensor_without_dimensions_is_no_weight(field: Field, name: str) -> None:
    choice = field.sparsify({name: torch.tensor(1.0), "fc1.weight": normal(8, 8)})
    assert choice.pruned == {"fc1.weight"}


def test_a_level_with_fewer_weights_than_rows_is_refused(field: Field) -> None:
    module = layer("new", 0)
    line = field.refused(dict(module.state_dict()), levels="0.99", code=2)
    assert line == (
        "parametrizations.weight.original1: level 0.99 keeps 26 weights, but weight norm has 32 "
        "rows that have to keep one each; take a lower level, or leave these tensors out with "
        "--exclude"
    )


RECIPE = """
import warnings
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations as P

warnings.simplefilter("ignore", FutureWarning)


def build_model(*, kind: str = "wn"):
    norm = {
        "wn": P.weight_norm,
        "wn_old": torch.nn.utils.weight_norm,
        "sn": P.spectral_norm,
        "sn_old": torch.nn.utils.spectral_norm,
    }[kind]
    return nn.Sequential(norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 2))


class Points:
    def __len__(self):
        return 10

    def __iter__(self):
        for _ in range(10):
            x = torch.randn(16, 8)
            yield x, (x.sum(1) > 0).long()


def train_data():
    return Points()


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])
"""
VECTORS = {
    "wn": "0.parametrizations.weight.original1",
    "wn_old": "0.weight_v",
    "sn": "0.parametrizations.weight.original",
    "sn_old": "0.weight_orig",
}


@pytest.mark.parametrize("joint", ["0", "1"])
@pytest.mark.parametrize("kind", VECTORS)
def test_training(field: Field, kind: str, joint: str) -> None:
    """A new model is trained at three levels, and each of them is finite."""
    recipe = field.write("recipe.py", RECIPE)
    done = field.run(
        *("freeze-train", "--recipe", recipe, "--set", f"kind={kind}", "--levels", "0.5,0.7,0.85"),
        *("--epochs", "1", "--joint-epochs", joint, "-o", "out.elsa.safetensors", "--json"),
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["prunable"] == 16 * 8 + 2 * 16
    assert all(row["loss"] is None or row["loss"] == row["loss"] for row in report["levels"])
    assert [entry["name"] for entry in field.manifest("out.elsa.safetensors")["tensors"]] == [
        *sorted([VECTORS[kind], "2.weight"])
    ]
    space: dict[str, Callable[..., nn.Module]] = {}
    exec(RECIPE, space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = space["build_model"](kind=kind)
    for level in ("0.85", "0.7", "0.5", "dense"):
        state: dict[str, Tensor] = field.extract(level, "out.elsa.safetensors")
        assert all(t.isfinite().all() for t in state.values())
        model.load_state_dict(state)
        assert model.eval()(normal(4, 8)).isfinite().all()
    assert load_file(field.folder / "level.safetensors").keys() == model.state_dict().keys()
