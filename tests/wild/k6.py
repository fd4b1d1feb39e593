"""K6: names that contain glob characters, and globs over a module that catch more than matrices.

`include` is what a person would write; `chosen` are the tensors that it should prune. `literal`
is a tensor's whole name, given as a pattern, that must find that tensor and no other.
"""

import torch
from torch import Tensor

from tests.wild.k3 import WB
from tests.wild.k4 import small
from tests.wild.wildlib import Made, by, case, numpy_to_torch, state, use

Rules = list[tuple[str, str]]
BATCH_NORM: tuple[str, str] = (r"bn\d?\.|norm|running|downsample\.1|\.1\.(weight|bias)$", "norm")


def glob(found: dict[str, Tensor], rules: Rules, include: str) -> Made:
    """A case of a glob over a module: the weights that match are to be pruned, and no more."""
    made = by(found, rules)
    match = use("fnmatch").fnmatchcase
    caught = [n for n in found if match(n, include)]
    chosen = [n for n in caught if made.expect[n] == "weight"]
    assert chosen
    assert len(caught) > len(chosen)
    return Made(made.tensors, made.expect, {"include": include, "chosen": chosen})


def named(found: dict[str, Tensor], rules: Rules, literal: str) -> Made:
    """A case of a name that is no pattern."""
    assert literal in found
    return by(found, rules, literal=literal)


@case(
    "K6",
    "textual_inversion_star",
    "diffusers",
    "diffusers/loaders/textual_inversion.py: state_dict['string_to_param']['*']",
    "The placeholder of the original textual inversion is `*`: as a name, and as a pattern, all.",
)
def star() -> Made:
    text = use("inspect").getsource(use("diffusers.loaders.textual_inversion"))
    assert '["string_to_param"]["*"]' in text
    found = {"*": torch.randn(2, 32) * 0.02, "emb_params": torch.randn(2, 32) * 0.02}
    return named(found, [("", "embedding")], "*")


def jax_named(tree: object) -> dict[str, Tensor]:
    """A tree of arrays by jax's own names of their paths."""
    jax = use("jax")
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): numpy_to_torch(leaf) for path, leaf in leaves}


@case(
    "K6",
    "jax_keystr",
    "flax",
    "jax/_src/tree_util.py keystr on flax/linen parameters",
    "`['params']['layers_0']['kernel']`: square brackets and quotes.",
)
def keystr() -> Made:
    linen, jax = use("flax.linen"), use("jax")
    made = linen.Sequential([linen.Dense(12), linen.LayerNorm(), linen.Dense(6)])
    found = jax_named(dict(made.init(jax.random.PRNGKey(0), jax.numpy.zeros((1, 8)))))
    rules = [("kernel", "weight"), ("layers_1", "norm"), ("bias", "bias")]
    return named(found, rules, "['params']['layers_2']['kernel']")


@case(
    "K6",
    "equinox_keystr",
    "equinox",
    "jax/_src/tree_util.py keystr on equinox/nn/_mlp.py MLP",
    "`.layers[0].weight`, `.layers[1].weight`: an attribute's path with an index.",
)
def equinox() -> Made:
    eqx, jax = use("equinox"), use("jax")
    made = eqx.nn.MLP(8, 4, 12, 1, key=jax.random.PRNGKey(0))
    found = jax_named(eqx.filter(made, eqx.is_array))
    return named(found, WB, ".layers[1].weight")


@case(
    "K6",
    "flax_nnx_path",
    "flax",
    "flax/nnx State paths by jax keystr",
    "`['linears'][0]['kernel'].value` of a list of modules.",
)
def nnx() -> Made:
    flax = use("flax.nnx")

    model = flax.Sequential(
        flax.Linear(8, 12, rngs=flax.Rngs(0)), flax.Linear(12, 4, rngs=flax.Rngs(1))
    )
    found = jax_named(flax.state(model, flax.Param))
    literal = next(n for n in found if "kernel" in n and "[1]" in n)
    return named(found, [("kernel", "weight"), ("bias", "bias")], literal)


@case(
    "K6",
    "hetero_keys",
    "torch-geometric",
    "torch_geometric/nn/module_dict.py ModuleDict and conv/hetero_conv.py HeteroConv",
    "Keys are types of edges: `convs.<user___rates?___movie[s]>.lin_l.weight`; the user's names"
    " go into"
    " the tensors'. The keys are chosen here.",
)
def hetero() -> Made:
    lib = use("torch_geometric.nn")
    edges = {
        ("user", "rates?", "movie[s]"): lib.SAGEConv((8, 8), 6),
        ("user", "rates?", "movies"): lib.SAGEConv((8, 8), 6),
    }
    found = state(lib.HeteroConv(edges))
    literal = next(n for n in found if "[s]" in n and n.endswith("lin_l.weight"))
    return named(found, WB, literal)


@case(
    "K6",
    "module_dict_columns",
    "torch",
    "torch/nn/modules/container.py ModuleDict, ParameterDict: any key without a dot",
    "Columns of a table as keys: `tables.price [EUR].weight`, `scales.rate*`. The keys are chosen"
    " here.",
)
def columns() -> Made:
    model = torch.nn.ModuleDict(
        {
            "tables": torch.nn.ModuleDict(
                {n: torch.nn.Linear(6, 4) for n in ("price [EUR]", "price E")}
            ),
            "scales": torch.nn.ParameterDict({n: torch.ones(4) for n in ("rate*", "rates")}),
        }
    )
    rules: Rules = [("scales", "other"), *WB]
    return named(state(model), rules, "tables.price [EUR].weight")


@case(
    "K6",
    "resnet_layer",
    "torchvision",
    "torchvision/models/resnet.py BasicBlock",
    "`layer1.*` catches bn1.weight, bn1.bias, running_mean, downsample.1.*.",
)
def resnet() -> Made:
    lib = use("torchvision.models.resnet")
    made = lib.BasicBlock(4, 8, 1, torch.nn.Sequential(lib.conv1x1(4, 8), torch.nn.BatchNorm2d(8)))
    found = {f"layer1.0.{n}": t for n, t in state(made).items()}
    found["fc.weight"] = torch.randn(3, 8) * 0.1
    return glob(found, [BATCH_NORM, *WB], "layer1.*")


@case(
    "K6",
    "swin_blocks",
    "timm",
    "timm/models/swin_transformer.py SwinTransformerBlock",
    "`layers.*` catches norms, biases and `relative_position_bias_table` of two dims.",
)
def swin() -> Made:
    made = use("timm.models.swin_transformer:SwinTransformerBlock")(8, (4, 4), 2, window_size=4)
    found = {f"layers.0.blocks.0.{n}": t for n, t in state(made).items()}
    rules: Rules = [("bias_table", "position"), ("norm", "norm"), *WB]
    return glob(found, rules, "layers.*")


@case(
    "K6",
    "mixer_glob",
    "transformers",
    "transformers/models/falcon_mamba/modeling_falcon_mamba.py FalconMambaModel",
    "`*.mixer.*` catches `A_log`, `D`, biases and `conv1d.bias`.",
)
def mamba() -> Made:
    config = use("transformers:FalconMambaConfig")(
        hidden_size=8, state_size=4, time_step_rank=2, num_hidden_layers=1, vocab_size=10
    )
    made = use("transformers:FalconMambaModel")(config)
    found = {f"backbone.{n}": t for n, t in state(made, keep="layers").items()}
    rules: Rules = [(r"A_log|\.D$", "other"), ("norm", "norm"), *WB]
    return glob(found, rules, "*.mixer.*")


@case(
    "K6",
    "mlp_glob_router",
    "transformers",
    "transformers/models/qwen3_moe/modeling_qwen3_moe.py Qwen3MoeForCausalLM",
    "`*.mlp.*` catches the router `mlp.gate.weight`.",
)
def qwen3_moe() -> Made:
    made = small(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        vocab_size=30,
        hidden_size=12,
        intermediate_size=12,
        moe_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
    )
    found = {n: t + 0.01 for n, t in state(made).items()}
    rules: Rules = [("norm", "norm"), ("embed", "embedding"), ("lm_head", "head")]
    return glob(found, [*rules, (r"gate\.", "router"), ("", "weight")], "*.mlp.*")


@case(
    "K6",
    "encoder_layer_glob",
    "transformers",
    "transformers/models/bert/modeling_bert.py BertLayer",
    "`bert.encoder.layer.0.*` catches LayerNorm and biases.",
)
def bert() -> Made:
    config = use("transformers:BertConfig")(
        hidden_size=8, intermediate_size=12, num_attention_heads=2
    )
    made = use("transformers.models.bert.modeling_bert:BertLayer")(config)
    found = {f"bert.encoder.layer.0.{n}": t for n, t in state(made).items()}
    return glob(found, [("LayerNorm", "norm"), *WB], "bert.encoder.layer.0.*")


@case(
    "K6",
    "mid_block_glob",
    "diffusers",
    "diffusers/models/resnet.py ResnetBlock2D",
    "`mid_block.*` catches group norms; `time_emb_proj.weight` is a weight.",
)
def mid_block() -> Made:
    made = use("diffusers.models.resnet:ResnetBlock2D")(in_channels=8, temb_channels=12, groups=4)
    found = {f"mid_block.resnets.0.{n}": t for n, t in state(made).items()}
    return glob(found, [("norm", "norm"), *WB], "mid_block.*")


@case(
    "K6",
    "decoder_block_glob",
    "ultralytics",
    "ultralytics/nn/modules/block.py C2f",
    "`model.2.*` catches `bn` inside every `conv`, beside `cv1.conv.weight`.",
)
def c2f() -> Made:
    found = {f"model.2.{n}": t for n, t in state(use("ultralytics.nn.modules:C2f")(8, 8)).items()}
    return glob(found, [(r"\.bn\.", "norm"), *WB], "model.2.*")
