"""K5: which dimension of a weight is its input: other frameworks, graphs, adapters."""

import torch

from tests.wild.wildlib import Made, by, case, numpy_to_torch, state, use

NOT: list[tuple[str, int]] = [(r"bias|norm|scale|mean$|var$|gamma|beta", -1)]


@case(
    "K5",
    "mlx_layouts",
    "mlx",
    "mlx/nn/layers/convolution.py Conv2d, Conv1d, ConvTranspose2d; linear.py Linear",
    "Convolutions are [out, kh, kw, in]: the last dimension, transposed ones too.",
)
def mlx() -> Made:
    lib, random = use("mlx.nn"), use("mlx.core").random
    random.seed(0)
    found: dict[str, torch.Tensor] = {}
    for name, made in (
        ("conv1", lib.Conv2d(8, 16, 3)),
        ("conv_1d", lib.Conv1d(8, 16, 3)),
        ("up", lib.ConvTranspose2d(16, 8, 2)),
        ("fc", lib.Linear(8, 16)),
    ):
        for part, array in made.parameters().items():
            found[f"{name}.{part}"] = numpy_to_torch(array)
    return by(found, [*NOT, (r"conv1\.w|up\.w", 3), ("conv_1d", 2), ("fc", 1)])


@case(
    "K5",
    "mlx_switch",
    "mlx-lm",
    "mlx_lm/models/switch_layers.py SwitchGLU; mla.py MultiLinear",
    "`switch_mlp.gate_proj.weight` [E, out, in] and MultiLinear [heads, out, in]: dimension 2.",
)
def mlx_switch() -> Made:
    use("mlx.core").random.seed(0)
    flat = use("mlx.utils:tree_flatten")
    made = use("mlx_lm.models.switch_layers:SwitchGLU")(16, 12, 4)
    found = {
        f"model.layers.0.mlp.switch_mlp.{n}": numpy_to_torch(t) for n, t in flat(made.parameters())
    }
    heads = use("mlx_lm.models.mla:MultiLinear")(8, 16, 4)
    for name, array in flat(heads.parameters()):
        found[f"model.layers.0.self_attn.embed_q.{name}"] = numpy_to_torch(array)
    return by(found, [("", 2)])


@case(
    "K5",
    "flax_kernels",
    "flax",
    "flax/linen/linear.py Dense, Conv, ConvTranspose, attention.py",
    "`kernel`: Dense [in, out], Conv [h, w, in, out], query [in, heads, dim], out [heads, dim,"
    " out].",
)
def flax() -> Made:
    linen, jax = use("flax.linen"), use("jax")
    numpy, flat = use("jax.numpy"), use("flax.traverse_util:flatten_dict")
    key = jax.random.PRNGKey(0)
    image, text = numpy.zeros((1, 8, 8, 4)), numpy.zeros((1, 3, 16))
    found: dict[str, torch.Tensor] = {}
    for name, made, given in (
        ("wi", linen.Dense(24), text),
        ("conv_init", linen.Conv(8, (3, 3)), image),
        ("upsample", linen.ConvTranspose(8, (2, 2)), image),
        ("self_attention", linen.SelfAttention(2), text),
    ):
        for path, array in flat(made.init(key, given)["params"]).items():
            found[".".join(("params", name, *path))] = numpy_to_torch(array)
    rules = [*NOT, (r"conv_init|upsample", 2), (r"out\.kernel", 1), ("", 0)]
    return by(found, rules)


def keras_layers() -> dict[str, torch.Tensor]:
    """Layers of Keras by the paths of their variables."""
    use("os").environ["KERAS_BACKEND"] = "torch"
    keras = use("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    found: dict[str, torch.Tensor] = {}
    for made, shape in (
        (layers.Conv2D(8, 3, name="conv1"), (1, 8, 8, 4)),
        (layers.DepthwiseConv2D(3, name="block_1_depthwise"), (1, 8, 8, 4)),
        (layers.Conv2DTranspose(8, 2, name="up"), (1, 8, 8, 4)),
        (layers.Dense(6, name="predictions"), (1, 8)),
        (layers.LSTM(4, name="lstm"), (1, 3, 8)),
        (layers.Embedding(10, 8, name="embedding"), (1, 3)),
        (layers.BatchNormalization(name="bn"), (1, 8)),
    ):
        made.build(shape)
        for variable in made.variables:
            if "seed" not in variable.path:
                path = variable.path if "/" in variable.path else f"{made.name}/{variable.path}"
                found[path] = torch.as_tensor(variable.value).detach().clone()
    return found


@case(
    "K5",
    "keras_paths",
    "keras",
    "keras/src/layers: variable paths joined by slashes",
    "`conv1/kernel` [h, w, in, out], `depthwise/kernel` [h, w, in, 1], `up/kernel` [h, w, out, in],"
    " `lstm_cell/recurrent_kernel` [in, 4u], `predictions/kernel` [in, out];"
    " `embedding/embeddings`.",
)
def keras() -> Made:
    rules = [*NOT, ("embeddings|moving", -1), ("depthwise", -1), ("up/", 3), ("conv1", 2)]
    return by(keras_layers(), [*rules, ("kernel", 0)])


@case(
    "K5",
    "graph_weights",
    "torch-geometric",
    "torch_geometric/nn/conv/rgcn_conv.py, dense/linear.py HeteroLinear, models/dimenet.py",
    "`weight` [relations, in, out] and `root` [in, out]; `lin.weight` [out, in].",
)
def graphs() -> Made:
    lib = use("torch_geometric.nn")
    found = {f"conv1.{n}": t for n, t in state(lib.RGCNConv(8, 6, 4)).items()}
    found |= {f"lin.{n}": t for n, t in state(lib.HeteroLinear(8, 6, 3)).items()}
    found |= {f"conv2.{n}": t for n, t in state(lib.GCNConv(8, 6)).items()}
    return by(found, [*NOT, ("root", 0), (r"^(conv1|lin)\.weight", 1), ("", 1)])


@case(
    "K5",
    "lora_pairs",
    "peft",
    "peft/tuners/lora/layer.py: Linear, Conv2d, Embedding",
    "`lora_A.weight` [r, in] and `lora_B.weight` [out, r]: dimension 1 both; a Conv2d's A is"
    " [r, in, k, k]; `lora_embedding_A` [r, vocabulary] is transposed.",
)
def lora() -> Made:
    lib = use("peft")
    model = torch.nn.ModuleDict(
        {
            "fc": torch.nn.Linear(16, 12),
            "conv": torch.nn.Conv2d(8, 12, 3),
            "table": torch.nn.Embedding(20, 8),
        }
    )
    config = lib.LoraConfig(r=4, target_modules=["fc", "conv", "table"])
    found = lib.get_peft_model_state_dict(lib.inject_adapter_in_model(config, model))
    kept = {n: t.detach().clone() for n, t in found.items()}
    return by(kept, [("embedding_A", -1), ("embedding_B", 1), ("", 1)])


@case(
    "K5",
    "kohya_pairs",
    "lycoris-lora",
    "lycoris/modules/locon.py, loha.py, lokr.py",
    "`lora_down.weight` [r, in, k, k], `lora_up.weight` [out, r, 1, 1]; `hada_w1_a` [out, r] and"
    " `hada_w1_b` [r, in * k * k]; `alpha` has no dimension.",
)
def kohya() -> Made:
    found: dict[str, torch.Tensor] = {}
    for kind in ("locon", "loha"):
        lib = use(f"lycoris.modules.{kind}")
        cls = lib.LoConModule if kind == "locon" else lib.LohaModule
        made = cls(f"{kind}_conv", torch.nn.Conv2d(8, 12, 3), lora_dim=4, alpha=2.0)
        found |= {f"lora_unet_{kind}.{n}": t for n, t in state(made).items()}
    return by(found, [("", 1)])


@case(
    "K5",
    "e3nn_flat",
    "e3nn",
    "e3nn/o3/_linear.py Linear, e3nn/o3/_tensor_product/_sub.py FullyConnectedTensorProduct",
    "`weight` of one dimension: all paths' matrices in a row; `output_mask` is a constant.",
)
def e3nn() -> Made:
    lib = use("e3nn.o3")
    found = {f"lin.{n}": t for n, t in state(lib.Linear("4x0e+2x1o", "4x0e")).items()}
    made = lib.FullyConnectedTensorProduct("4x0e+2x1o", "4x0e", "4x0e+2x1o")
    found |= {f"tp.{n}": t for n, t in state(made).items()}
    return by(found, [("", -1)])


@case(
    "K5",
    "equinox_layers",
    "equinox",
    "equinox/nn/_linear.py, _conv.py ConvTranspose2d",
    "[out, in] as PyTorch, and ConvTranspose2d [out, in, k, k], unlike PyTorch's [in, out, k, k].",
)
def equinox() -> Made:
    lib, jax = use("equinox.nn"), use("jax")
    key = jax.random.PRNGKey(0)
    found = {
        "layers.0.weight": numpy_to_torch(lib.Linear(8, 12, key=key).weight),
        "layers.1.weight": numpy_to_torch(lib.Conv2d(8, 12, 3, key=key).weight),
        "layers.2.weight": numpy_to_torch(lib.ConvTranspose2d(8, 12, 3, key=key).weight),
    }
    return by(found, [("", 1)])
