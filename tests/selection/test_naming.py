"""Names taken apart, and what belongs to a tensor by its name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.selection.naming import Name, Siblings, canonical, real_dims, take_apart
from elsa_cli.selection.roles import by_name
from elsa_cli.storage.container import TensorSpec, lay_out


def of(shapes: dict[str, tuple[int, ...]]) -> Siblings:
    """Return float32 tensors of some shapes, by their names."""
    specs = (TensorSpec(name, DTYPES["F32"], shape) for name, shape in shapes.items())
    return Siblings(lay_out(specs))


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        ("weight", "weight"),
        ("LayerNorm", "layer_norm"),
        ("LayerNorm_1", "layer_norm"),
        ("layer_norm2", "layer_norm"),
        ("Conv2d", "conv2d"),
        ("conv1", "conv"),
        ("w1", "w"),
        ("12", ""),
        ("", ""),
        ("_u", "u"),
        ("gate-up_proj", "gate_up_proj"),
        ("h2o_4h_to_h", "h2o_4h_to_h"),
        ("layers12_3", "layers"),
        ("QKV", "qkv"),
        ("١", ""),  # digits of other scripts are digits
    ],
)
def test_canonical(segment: str, expected: str) -> None:
    assert canonical(segment) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), ()), ((1,), ()), ((1, 1, 768), (768,)), ((64, 1, 3), (64, 3)), ((0, 1, 4), (0, 4))],
)
def test_real_dims(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert real_dims(shape) == expected


@pytest.mark.parametrize(
    ("name", "leaf", "module", "above", "owner"),
    [
        ("weight", "weight", "", (), ""),
        ("fc.weight", "weight", "fc", (), "fc"),
        (
            "model.layers.0.mlp.down_proj.weight",
            "weight",
            "down_proj",
            ("mlp", "layers", "model"),
            "model.layers.0.mlp.down_proj",
        ),
        # Numbers own nothing, and neither do wrappers.
        ("net.0.weight", "weight", "net", (), "net.0"),
        ("0.weight", "weight", "", (), "0"),
        ("module.fc.weight", "weight", "fc", (), "module.fc"),
        ("_orig_mod.module.fc.weight", "weight", "fc", (), "_orig_mod.module.fc"),
        ("fc.base_layer.weight", "weight", "fc", (), "fc.base_layer"),
        ("h.modules_to_save.default.weight", "weight", "default", ("h",), None),
        ("a._fsdp_wrapped_module.fc.weight", "weight", "fc", ("a",), None),
        # Parametrizations of torch.
        (
            "conv.parametrizations.weight.original1",
            "weight_v",
            "conv",
            (),
            "conv.parametrizations.weight",
        ),
        ("a.conv.parametrizations.weight.0._u", "u", "conv", ("a",), None),
        ("parametrizations.weight.original0", "weight_g", "", (), "parametrizations.weight"),
        ("parametrizations.weight", "weight", "", (), "parametrizations"),
        # Flax and Keras.
        ("encoder/Dense_0/kernel", "kernel", "dense", ("encoder",), "encoder/Dense_0"),
        ("block/conv2d_3/kernel:0", "kernel", "conv2d", ("block",), "block/conv2d_3"),
        ("params/a.b/kernel", "kernel", "b", ("a", "params"), "params/a.b"),
        # A colon means nothing without slashes.
        ("fc.weight:0", "weight:", "fc", (), "fc"),
        # Lists of parameters.
        ("pool.weights.3", "weights", "pool", (), "pool.weights"),
        ("pool.weights.3.1", "weights", "pool", (), "pool.weights.3"),
        ("7", "", "", (), ""),
        ("", "", "", (), ""),
        (".", "", "", (), ""),
        (".weight", "weight", "", (), ""),
        ("fc.", "fc", "", (), "fc"),
        ("/:0", "", "", (), ""),
    ],
)
def test_taken_apart(
    name: str, leaf: str, module: str, above: tuple[str, ...], owner: str | None
) -> None:
    whole = name.rpartition(".")[0] if owner is None else owner
    assert take_apart(name) == Name(leaf, module, above, whole)


NAMES = st.text(st.sampled_from("ab01._/:-[]*?=é \n") | st.characters(), max_size=30)


@given(NAMES)
def test_any_string_is_taken_apart(name: str) -> None:
    found = take_apart(name)
    assert name.startswith(found.owner)
    for segment in (found.leaf, found.module, *found.above):
        assert "." not in segment
        assert "/" not in segment
    # Between the module and what stands above there is never an empty segment.
    assert all(found.above)
    assert found.module or not found.above


@given(st.dictionaries(NAMES, st.sampled_from([(4,), (4, 4), (2, 4, 4), ()]), max_size=8))
def test_any_strings_have_roles_and_siblings(shapes: dict[str, tuple[int, ...]]) -> None:
    siblings = of(shapes)
    assert by_name(siblings).keys() == shapes.keys()
    for t in siblings.by_name.values():
        assert t in siblings.beside(t).values()
        assert siblings.bias_of(t) is not t


@given(st.dictionaries(NAMES, st.just((4,)), max_size=8))
def test_no_tensor_is_lost_among_its_siblings(shapes: dict[str, tuple[int, ...]]) -> None:
    siblings = of(shapes)
    owned = [t.name for beside in siblings.owned.values() for t in beside.values()]
    assert sorted(owned) == sorted(shapes)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ("fc.weight", "fc.bias"),
        ("weight", "bias"),
        ("0.weight", "0.bias"),
        ("attn.in_proj_weight", "attn.in_proj_bias"),
        ("rnn.weight_ih_l0", "rnn.bias_ih_l0"),
        ("mlp.experts.down_proj", "mlp.experts.down_proj_bias"),
        ("dense/kernel", "dense/bias"),
        ("dense/kernel:0", "dense/bias:0"),
        ("conv.weight_v", "conv.bias"),
        ("conv.parametrizations.weight.original1", "conv.bias"),
        ("parametrizations.weight.original1", "bias"),
        ("conv.parametrizations.weight.original", "conv.parametrizations.bias.original"),
    ],
)
def test_the_bias_of_a_weight(weight: str, bias: str) -> None:
    siblings = of({weight: (4, 4), bias: (4,), "other.bias": (9,), "other_bias": (9,)})
    found = siblings.bias_of(siblings.by_name[weight])
    assert found is not None
    assert found.name == bias


def test_the_own_bias_comes_first() -> None:
    siblings = of({"up_proj": (4, 4), "up_proj_bias": (4,), "down_proj": (4, 4), "bias": (4,)})
    found = {n: siblings.bias_of(siblings.by_name[n]) for n in ("up_proj", "down_proj")}
    assert [t and t.name for t in found.values()] == ["up_proj_bias", "bias"]


@pytest.mark.parametrize("name", ["fc.weight", "bias", "fc.bias", "weight"])
def test_without_a_bias(name: str) -> None:
    siblings = of({name: (4, 4), "gc.bias": (4,), "fc.scale": (4,)})
    assert siblings.bias_of(siblings.by_name[name]) is None


@pytest.mark.parametrize(
    ("name", "owners"),
    [
        ("model.layers.0.mlp.experts.3.w1.weight", {"model.layers.0.mlp"}),
        ("mlp.experts.gate_up_proj", {"mlp"}),
        ("moe.local_experts.0.weight", {"moe"}),
        ("experts.0.weight", {""}),
        ("mlp.routed_experts.a.experts.b.weight", {"mlp", "mlp.routed_experts.a"}),
        ("layers/0/mlp/experts/wi/kernel", {"layers/0/mlp"}),
        ("mlp.shared_expert.weight", set()),
        ("expertise.fc.weight", set()),
    ],
)
def test_what_has_experts_below(name: str, owners: set[str]) -> None:
    assert of({name: (4, 4), "fc.weight": (4, 4)}).with_experts == owners
