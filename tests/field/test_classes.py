"""Roles told by the classes of a recipe's model, where names would tell something else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from elsa_cli import freeze_train, sparsify
from tests.field.tools import Field

RECIPE = """
import torch
from torch import nn


class MyNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 16))


class MyNorm2d(MyNorm):
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_emb = nn.Linear(16, 32, bias=False)
        self.embedding_projection = nn.Linear(16, 8)
        self.embedding = nn.Linear(16, 8, bias=False)
        self.norm = nn.Linear(16, 8)
        self.fc = nn.Embedding(40, 16)
        self.linear_proj = nn.EmbeddingBag(40, 16)
        self.wpe = nn.Embedding(30, 16)
        self.block = nn.ConvTranspose2d(8, 16, 3, bias=False)
        self.up = nn.Conv2d(8, 16, 4, bias=False)
        self.my = MyNorm()
        self.layer = MyNorm2d()
        self.dense = nn.LayerNorm((8, 16))
        self.lm_head = nn.Linear(16, 40, bias=False)
        self.router = nn.Linear(16, 4)
        self.relu = nn.PReLU(8)
        self.attn = nn.MultiheadAttention(16, 2, add_bias_kv=True)
        self.rnn = nn.LSTM(16, 8)
        self.vec = nn.Linear(16, 1)
        self.shared = self.twice = nn.Linear(16, 16, bias=False)
        self.register_buffer("weight2", torch.randn(32, 32))
        self.register_buffer("proj", torch.randn(8, 8), persistent=False)

    def get_output_embeddings(self):
        raise NotImplementedError


def build_model(*, boom: str = ""):
    if boom:
        raise ValueError(f"{boom}\\nand more")
    return Net()


def train_data():
    return [(torch.randn(2, 16),)]


def loss(model, batch):
    return model.norm(model.embedding(batch[0]) @ torch.ones(8, 16)).square().mean()
"""
# By the name of a tensor: its role, and the input dimension of a weight.
ROLES: dict[str, tuple[str, int | None]] = {
    "pos_emb.weight": ("weight", 1),
    "embedding_projection.weight": ("weight", 1),
    "embedding_projection.bias": ("bias", None),
    "embedding.weight": ("weight", 1),
    "norm.weight": ("weight", 1),
    "norm.bias": ("bias", None),
    "fc.weight": ("embedding", None),
    "linear_proj.weight": ("embedding", None),
    "wpe.weight": ("position", None),
    "block.weight": ("weight", 0),
    "up.weight": ("weight", 1),
    "my.weight": ("norm", None),
    "layer.weight": ("norm", None),
    "dense.weight": ("norm", None),
    "dense.bias": ("norm", None),
    "lm_head.weight": ("head", None),
    "router.weight": ("router", None),
    "router.bias": ("bias", None),
    "relu.weight": ("scale", None),
    "attn.in_proj_weight": ("weight", 1),
    "attn.in_proj_bias": ("bias", None),
    "attn.out_proj.weight": ("weight", 1),
    "attn.out_proj.bias": ("bias", None),
    "attn.bias_k": ("bias", None),
    "attn.bias_v": ("bias", None),
    "rnn.weight_ih_l0": ("weight", 1),
    "rnn.weight_hh_l0": ("weight", 1),
    "rnn.bias_ih_l0": ("bias", None),
    "rnn.bias_hh_l0": ("bias", None),
    "vec.weight": ("other", None),
    "vec.bias": ("bias", None),
    "shared.weight": ("weight", 1),
    "twice.weight": ("weight", 1),
    "weight2": ("constant", None),
}
PRUNED = {name for name, (role, _) in ROLES.items() if role == "weight"}


def build(text: str = RECIPE) -> nn.Module:
    """Return a recipe's model."""
    space: dict[str, Any] = {}
    exec(text, space)
    torch.manual_seed(0)
    model: nn.Module = space["build_model"]()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(torch.randn(tensor.shape))
    return model


def test_the_class_wins(field: Field) -> None:
    """Over the names, in sparsify; the report and the file say what told the roles."""
    state = build().state_dict()
    recipe = field.write("recipe.py", RECIPE)
    choice = field.sparsify(state, "--recipe", recipe, "--group", "4", levels="0.5")
    assert choice.roles == {name: role for name, (role, _) in ROLES.items()}
    assert choice.pruned == PRUNED
    assert choice.dims == {name: ROLES[name][1] for name in PRUNED}
    assert choice.reasons["my.weight"] == "its module: MyNorm"
    assert choice.reasons["weight2"] == "its module: buffer of Net"
    assert choice.json["told_by"] == "the recipe's model"
    assert "roles were told by the recipe's model" in choice.err.splitlines()
    assert choice.warned == []
    method = field.manifest()["method"]
    assert method["roles"] == {"rules": 2, "told_by": "the recipe's model"}
    assert method["group_dims"] == {"block.weight": 0}
    field.check_levels(state, choice)
    without = field.sparsify(state, "--group", "4", levels="0.5")
    assert without.pruned != PRUNED  # or this model would prove nothing
    report = sparsify(
        field.folder / "model.safetensors",
        "0.5",
        group=4,
        recipe=field.folder / "recipe.py",
        dry_run=True,
    )
    assert {t.name for t in report.tensors} == PRUNED


def test_what_a_recipe_prints_is_not_the_result(field: Field) -> None:
    talks = RECIPE.replace("    return Net()", '    print("a recipe may talk")\n    return Net()')
    file, recipe = field.save(build().state_dict()), field.write("recipe.py", talks)
    done = field.run("sparsify", file, "--levels", "0.5", "--recipe", recipe)
    assert (done.code, done.out) == (0, "model.elsa.safetensors\n")
    assert "a recipe may talk" in done.err


@pytest.mark.parametrize(
    ("options", "roles", "python"),
    [
        ([], {}, {}),
        (
            ["--role", "norm.*=other", "--exclude", "up.*", "--role", "fc.weight=weight"],
            {"norm.weight": "other", "norm.bias": "other", "fc.weight": "weight"},
            {"roles": ["norm.*=other", "fc.weight=weight"], "exclude": ["up.*"]},
        ),
        (
            ["--include", "rnn.*", "--include", "norm.bias", "--include", "my.weight"],
            {},
            {"include": ["rnn.*", "norm.bias", "my.weight"]},
        ),
    ],
    ids=["classes", "roles", "include"],
)
def test_training_chooses_as_sparsify_does(
    field: Field, options: list[str], roles: dict[str, str], python: dict[str, Any]
) -> None:
    """The same masks under the same options: from a checkpoint, and in Python."""
    file, recipe = field.save(build().state_dict()), field.write("recipe.py", RECIPE)
    line = (file, "--levels", "0.9,0.5", *options, "--recipe", recipe, "--json")
    chosen = field.run("sparsify", *line, "-o", "a.elsa.safetensors")
    assert chosen.code == 0, chosen.err
    short = ("--epochs", "0", "--joint-epochs", "0", "-o", "b.elsa.safetensors")
    trained = field.run("freeze-train", *line, *short)
    assert trained.code == 0, trained.err
    first, second = json.loads(chosen.out), json.loads(trained.out)
    assert {row["name"]: row["role"] for row in first["tensors"] + first["left"]} == {
        name: role for name, (role, _) in ROLES.items()
    } | roles
    # Only `elsa sparsify` has this option, so `elsa freeze-train` names the command, too.
    second["warnings"] = [
        line.replace("`elsa sparsify --scope layer`", "--scope layer")
        for line in second["warnings"]
    ]
    for field_name in ("left", "roles", "warnings", "prunable"):
        assert first[field_name] == second[field_name], field_name
    one, two = field.manifest("a.elsa.safetensors"), field.manifest("b.elsa.safetensors")
    assert one["tensors"] == two["tensors"]
    assert one["method"]["roles"] == two["method"]["roles"]
    for level in ("0.9", "0.5"):
        a, b = (field.extract(level, f"{x}.elsa.safetensors") for x in "ab")
        assert all(torch.equal(a[name], b[name]) for name in ROLES)
    if options:
        report = freeze_train(
            field.folder / file,
            field.folder / recipe,
            field.folder / "c.elsa.safetensors",
            levels="0.9,0.5",
            options=_none(),
            **python,
        )
        assert [row.name for row in report.left] == [row["name"] for row in second["left"]]


def _none() -> Any:
    """Return options that train nothing."""
    from elsa_cli import TrainOptions

    return TrainOptions(epochs=(0,), joint_epochs=0)


@pytest.mark.parametrize(
    ("text", "options", "code", "message"),
    [
        (RECIPE, ["--recipe-set", "boom=no"], 1, "ValueError: no and more"),
        (RECIPE, ["--recipe-set", "bom=no"], 2, "has no option 'bom'; its options are: boom"),
        ("def build_model(:", [], 1, "SyntaxError"),
        ("import nothing_of_that_name", [], 1, "nothing_of_that_name"),
        (RECIPE.replace("return Net()", "return 3"), [], 1, "build_model gave a int"),
        (RECIPE.replace("def loss", "def lost"), [], 1, "has no function loss"),
        (
            RECIPE.replace("return Net()", "return nn.Linear(3, 3)"),
            [],
            1,
            "model.safetensors: does not fit the recipe's model: no tensor is in both; "
            "build_model() must give the tensors the checkpoint's names",
        ),
    ],
    ids=["raises", "no setting", "syntax", "no module", "no model", "no loss", "another model"],
)
def test_a_recipe_that_fails_gives_one_line(
    field: Field, text: str, options: list[str], code: int, message: str
) -> None:
    file = field.save({"fc1.weight": torch.randn(8, 8)})
    recipe = field.write("recipe.py", text)
    done = field.run("sparsify", file, "--levels", "0.5", "--recipe", recipe, *options)
    errors = done.err.splitlines()
    assert (done.code, done.out, len(errors)) == (code, "", 1), done
    assert message in errors[0]
    assert sorted(path.name for path in field.folder.glob("*.elsa.*")) == []


def test_settings_without_a_recipe(field: Field) -> None:
    line = field.refused({"fc1.weight": torch.randn(8, 8)}, "--recipe-set", "a=1", code=2)
    assert line == "--recipe-set sets what a recipe reads; use it with --recipe"


def test_a_lazy_layer_is_told_by_its_name(field: Field) -> None:
    text = RECIPE.replace("return Net()", "return nn.Sequential(nn.LazyLinear(8))")
    recipe = field.write("recipe.py", text)
    choice = field.sparsify({"0.weight": torch.randn(8, 8)}, "--recipe", recipe)
    assert choice.pruned == {"0.weight"}
    assert choice.reasons == {"0.weight": "its name: every layer"}
