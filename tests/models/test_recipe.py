"""The contract of recipes, and every way to miss it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from elsa_cli.errors import ElsaError, RecipeError, UsageError
from elsa_cli.models.recipe import SIGNATURES, Recipe
from tests.training.tiny import DATA, EVALUATE, LOSS, MODEL, WHOLE, load_recipe, write_recipe

WHERE = {"build_model": MODEL, "train_data": DATA, "loss": LOSS}
RAISING = {
    "build_model": "def build_model():\n    raise KeyError('oh')\n",
    "train_data": "def train_data():\n    raise KeyError('oh')\n",
    "loss": "def loss(model, batch):\n    raise KeyError('oh')\n",
    "evaluate": "def evaluate(model):\n    raise KeyError('oh')\n",
    "optimizer": "def optimizer(params):\n    raise KeyError('oh')\n",
    "schedule": "def schedule(optimizer, steps):\n    raise KeyError('oh')\n",
}


def call(recipe: Recipe, name: str) -> object:
    """Call one function of a recipe in the way the tool does."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls: dict[str, Callable[[], object]] = {
        "build_model": recipe.build_model,
        "train_data": lambda: recipe.train_data(0, 1),
        "loss": lambda: recipe.loss(model, torch.ones(1, 2)),
        "evaluate": lambda: recipe.evaluate(model),
        "optimizer": lambda: recipe.optimizer(list(model.parameters())),
        "schedule": lambda: recipe.schedule(optimizer, 3),
    }
    return calls[name]()


def written(folder: Path, **functions: str) -> Path:
    """Write a recipe whose functions are replaced, or added."""
    return write_recipe(folder, *({**WHERE, **functions}).values())


def line_of(path: Path, text: str) -> int:
    return path.read_text().split("\n").index(text) + 1


def test_a_whole_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, *WHOLE)
    assert recipe.path == str(tmp_path / "recipe.py")
    assert recipe.settings == {}
    model = recipe.build_model()
    data, share = recipe.train_data(0, 1)
    assert not share
    loss = recipe.loss(model, next(iter(data)))
    assert (loss.shape, loss.requires_grad) == ((), True)
    assert [name for name in SIGNATURES if recipe.has(name)] == list(WHERE)


def test_all_functions(tmp_path: Path) -> None:
    recipe = load_recipe(
        tmp_path,
        *WHOLE,
        EVALUATE,
        "def optimizer(params):\n    return torch.optim.SGD(params, lr=0.5)\n",
        "def schedule(optimizer, steps):\n"
        "    return torch.optim.lr_scheduler.StepLR(optimizer, steps)\n",
    )
    assert all(recipe.has(name) for name in SIGNATURES)
    optimizer = call(recipe, "optimizer")
    assert isinstance(optimizer, torch.optim.SGD)
    assert isinstance(call(recipe, "schedule"), torch.optim.lr_scheduler.StepLR)
    for name in SIGNATURES:
        recipe.require(name)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nix.py: there is no such recipe; name a Python file"):
        Recipe(tmp_path / "nix.py")
    with pytest.raises(UsageError, match=r"there is no such recipe"):
        Recipe(tmp_path)


@pytest.mark.parametrize("name", WHERE)
def test_a_missing_function_is_named_with_its_signature(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, **{name: ""})
    with pytest.raises(RecipeError) as caught:
        Recipe(path)
    assert str(caught.value) == f"{path}: has no function {name}; define {SIGNATURES[name][0]}"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["evaluate", "optimizer", "schedule"])
def test_an_optional_function_that_is_needed_after_all(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path, *WHOLE)
    assert not recipe.has(name)
    with pytest.raises(RecipeError) as caught:
        recipe.require(name)
    assert str(caught.value).endswith(f"has no function {name}; define {SIGNATURES[name][0]}")


@pytest.mark.parametrize(
    ("name", "head", "shown"),
    [
        ("build_model", "size", "build_model(size) cannot be called as build_model()"),
        ("train_data", "split", "train_data(split) cannot be called as train_data()"),
        ("loss", "batch", "loss(batch) cannot be called as loss(model, batch)"),
        ("loss", "a, b, c", "loss(a, b, c) cannot be called as loss(model, batch)"),
        ("loss", "a, *, b, c: int", "cannot be called as loss(model, batch)"),
        ("evaluate", "", "evaluate() cannot be called as evaluate(model)"),
        ("optimizer", "model, lr", "optimizer(model, lr) cannot be called as optimizer(params)"),
        ("schedule", "opt", "schedule(opt) cannot be called as schedule(optimizer, steps)"),
    ],
)
def test_a_wrong_signature(name: str, head: str, shown: str, tmp_path: Path) -> None:
    path = written(tmp_path, **{name: f"def {name}({head}):\n    pass\n"})
    with pytest.raises(RecipeError) as caught:
        Recipe(path)
    assert shown in str(caught.value)
    assert f"; define {SIGNATURES[name][0]}, further parameters keyword-only" in str(caught.value)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    "text",
    [
        "loss = lambda m, b: F.cross_entropy(m(b[0]), b[1])",
        "def loss(*args):\n    return F.cross_entropy(args[0](args[1][0]), args[1][1])",
        "def loss(m, b, weight=None):\n    return F.cross_entropy(m(b[0]), b[1], weight)",
        "@torch.enable_grad()\ndef loss(model, batch, *, scale: float = 1.0):\n"
        "    return scale * F.cross_entropy(model(batch[0]), batch[1])",
    ],
)
def test_other_ways_to_write_a_function(text: str, tmp_path: Path) -> None:
    recipe = Recipe(written(tmp_path, loss=text))
    data, _ = recipe.train_data(0, 1)
    assert recipe.loss(recipe.build_model(), next(iter(data))).requires_grad


@pytest.mark.parametrize(
    "text",
    [
        "class Loss:\n    def __call__(self, model, batch):\n"
        "        return model(batch[0]).sum()\n\nloss = Loss()",
        "class Loss(nn.Module):\n    def forward(self, model, batch):\n"
        "        return model(batch[0]).sum()\n\nloss = Loss()",
    ],
    ids=["object", "module"],
)
def test_a_function_may_be_any_callable(text: str, tmp_path: Path) -> None:
    recipe = Recipe(written(tmp_path, loss=text))
    data, _ = recipe.train_data(0, 1)
    assert recipe.loss(recipe.build_model(), next(iter(data))).requires_grad


def test_the_model_may_be_a_class(tmp_path: Path) -> None:
    text = (
        "class Net(nn.Linear):\n    def __init__(self, *, size: int = 3):\n"
        "        super().__init__(size, 1)\n\nbuild_model = Net"
    )
    recipe = Recipe(written(tmp_path, build_model=text), {"size": "5"})
    model = recipe.build_model()
    assert isinstance(model, nn.Linear)
    assert model.in_features == 5


@pytest.mark.parametrize("name", ["loss", "evaluate"])
@pytest.mark.parametrize("value", ["3", "'text'", "torch.ones(2)"])
def test_what_cannot_be_called(name: str, value: str, tmp_path: Path) -> None:
    path = written(tmp_path, **{name: f"{name} = {value}\n"})
    with pytest.raises(RecipeError, match=rf"{name}.*define {name}\(model"):
        Recipe(path)


def test_annotations_that_type_checkers_alone_can_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from collections.abc import Iterator\n    from torch import nn\n"
        "def build_model() -> nn.Module:\n    import torch\n    return torch.nn.Linear(1, 1)\n"
        "def train_data(*, batch: int = 4) -> Iterator[int]:\n    return iter([batch])\n"
        "def loss(model: nn.Module, batch: int):\n    pass\n"
    )
    assert Recipe(path, {"batch": "7"}).settings == {"batch": 7}


# What a recipe raises.


@pytest.mark.parametrize("name", RAISING)
def test_an_error_names_the_line(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, **{name: RAISING[name]})
    recipe = Recipe(path)
    with pytest.raises(RecipeError) as caught:
        call(recipe, name)
    line = line_of(path, "    raise KeyError('oh')")
    assert str(caught.value) == f"{path}:{line}: {name}: KeyError: 'oh'"
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_further_down_names_the_last_line_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "helper_of_mine.py").write_text("def fail():\n    return 1 / 0\n")
    path = written(
        tmp_path,
        loss="from helper_of_mine import fail\n\ndef inner():\n    return fail()\n\n"
        "def loss(model, batch):\n    return inner()\n",
    )
    with pytest.raises(RecipeError) as caught:
        call(Recipe(path), "loss")
    line = line_of(path, "    return fail()")
    assert str(caught.value) == f"{path}:{line}: loss: ZeroDivisionError: division by zero"


def test_an_error_of_several_lines_is_one(tmp_path: Path) -> None:
    text = "def loss(model, batch):\n    raise ValueError('a\\nb\\n\\x1b[31mc')\n"
    with pytest.raises(RecipeError) as caught:
        call(Recipe(written(tmp_path, loss=text)), "loss")
    assert str(caught.value).endswith(": loss: ValueError: a b \\x1b[31mc")


def test_an_error_of_the_tool_itself_is_left_alone(tmp_path: Path) -> None:
    text = (
        "from elsa_cli import load_level\n\n"
        "def build_model():\n    return load_level('/nix/nix', '0.5')\n"
    )
    with pytest.raises(ElsaError, match=r"^/nix/nix: ") as caught:
        Recipe(written(tmp_path, build_model=text)).build_model()
    assert not isinstance(caught.value, RecipeError)


@pytest.mark.parametrize(
    "text", ["import nix_da.sub", "def loss(model, batch):\n    import nix_da"]
)
def test_a_missing_package_is_named(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, loss=text)
    with pytest.raises(RecipeError) as caught:
        call(Recipe(path), "loss")
    line = line_of(path, text.split("\n")[-1])
    assert str(caught.value) == (
        f"{path}:{line}: needs the package nix_da, which is not installed; "
        "install it, as with `pip install nix_da`"
    )


def test_out_of_memory_says_what_helps(tmp_path: Path) -> None:
    text = "def loss(model, batch):\n    raise torch.OutOfMemoryError('No memory. Tried 5 GB. X')\n"
    with pytest.raises(RecipeError) as caught:
        call(Recipe(written(tmp_path, loss=text)), "loss")
    assert str(caught.value).endswith(
        'loss: No memory; use smaller batches and accumulate, or precision="bf16"'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("def build_model(:\n", "import: SyntaxError: "),
        ("x = 1 / 0\n", "import: ZeroDivisionError: division by zero"),
        ("x: int = nix\n", "import: NameError: name 'nix' is not defined"),
    ],
)
def test_an_error_at_import(text: str, shown: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text("# a recipe\n\n" + text)
    with pytest.raises(RecipeError) as caught:
        Recipe(path)
    assert str(caught.value).startswith(f"{path}:3: {shown}")


def test_a_syntax_error_in_a_file_beside_it(tmp_path: Path) -> None:
    """Its line is not one of the recipe's."""
    helper = tmp_path / "helper_of_mine.py"
    helper.write_text("\n" * 6 + "def broken(:\n")
    path = tmp_path / "recipe.py"
    path.write_text("import helper_of_mine\n")
    with pytest.raises(RecipeError, match="SyntaxError") as caught:
        Recipe(path)
    assert caught.value.file in (f"{path}:1", f"{helper}:7")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_bytes(b"x = '\xff\xfe'\n")
    with pytest.raises(RecipeError, match=r"recipe.py:.*import: SyntaxError"):
        Recipe(path)
    path.write_bytes(b"x = 1\0\n")
    with pytest.raises(RecipeError, match=r"import: (SyntaxError|ValueError)"):
        Recipe(path)


def test_files_beside_it_are_found_and_what_it_defines_can_be_pickled(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("SIZE = 11\n")
    path = written(
        tmp_path,
        build_model="from beside import SIZE\n\nclass Net(nn.Linear):\n    pass\n\n"
        "def build_model():\n    return Net(SIZE, 1)\n",
    )
    model = Recipe(path).build_model()
    assert pickle.loads(pickle.dumps(model)).in_features == 11
    assert sys.modules["recipe"].__file__ == str(path)


# What functions return.


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("build_model", "None", "build_model gave None, not a Module"),
        ("build_model", "{}", "build_model gave a dict, not a Module"),
        ("build_model", "nn.Linear", "build_model gave a type, not a Module"),
        ("train_data", "None", "train_data gave None, which cannot be iterated"),
        ("train_data", "3", "train_data gave a int, which cannot be iterated"),
        ("loss", "None", "loss gave None, not a tensor of one number"),
        ("loss", "0.5", "loss gave a float, not a tensor of one number"),
        ("loss", "torch.ones(3)", r"loss gave a tensor of shape \[3\], not a tensor of one"),
        ("loss", "torch.ones(0)", r"loss gave a tensor of shape \[0\], not a tensor of one"),
        ("evaluate", "None", "evaluate gave None, not a number or a dict of numbers"),
        ("evaluate", "[1.0]", "evaluate gave a list, not a number or a dict of numbers"),
        ("evaluate", "{'a': None}", "evaluate gave a dict, not a number or a dict of numbers"),
        ("evaluate", "torch.ones(2)", r"evaluate gave a tensor of shape \[2\], not a number"),
        ("optimizer", "None", "optimizer gave None"),
        ("optimizer", "[]", "optimizer gave a list"),
        ("schedule", "None", "schedule gave None"),
        ("schedule", "0.1", "schedule gave a float"),
    ],
)
def test_wrong_kinds(name: str, value: str, shown: str, tmp_path: Path) -> None:
    head = SIGNATURES[name][0].split(" ->")[0]
    path = written(tmp_path, **{name: f"def {head}:\n    return {value}\n"})
    with pytest.raises(RecipeError, match=shown) as caught:
        call(Recipe(path), name)
    assert (caught.value.file or "").startswith(str(path))


def test_a_loss_of_one_number_in_any_shape(tmp_path: Path) -> None:
    recipe = Recipe(written(tmp_path, loss="def loss(m, b):\n    return torch.ones(1, 1)\n"))
    assert recipe.loss(nn.Linear(1, 1), None).shape == ()


@pytest.mark.parametrize(
    ("value", "metrics"),
    [
        ("0.5", {"metric": 0.5}),
        ("7", {"metric": 7.0}),
        ("torch.tensor([0.25])", {"metric": 0.25}),
        ("np.float32(0.25)", {"metric": 0.25}),
        ("{'a': 1, 'b': torch.tensor(2.5)}", {"a": 1.0, "b": 2.5}),
        ("{}", {}),
    ],
)
def test_metrics(value: str, metrics: dict[str, float], tmp_path: Path) -> None:
    text = f"def evaluate(model):\n    return {value}\n"
    found = Recipe(written(tmp_path, evaluate=text)).evaluate(nn.Linear(1, 1))
    assert found == metrics
    assert all(type(v) is float for v in found.values())


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_mode_is_taken_back(fails: bool, tmp_path: Path) -> None:
    text = (
        "def evaluate(model):\n"
        "    assert not torch.is_grad_enabled()\n"
        "    assert not any(m.training for m in model.modules())\n"
        f"    return {'1 / 0' if fails else '1.0'}\n"
    )
    recipe = Recipe(written(tmp_path, evaluate=text))
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.BatchNorm1d(1)).train()
    model[2].eval()
    if fails:
        with pytest.raises(RecipeError, match="ZeroDivisionError"):
            recipe.evaluate(model)
    else:
        recipe.evaluate(model)
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert torch.is_grad_enabled()


# Settings.

SETTINGS = {
    "build_model": "def build_model(*, hidden: int = 4, name: str = 'a'):\n"
    "    return nn.Linear(hidden, len(name))\n",
    "train_data": "def train_data(*, hidden: int = 4, noise: float = 0.5):\n"
    "    return [(hidden, noise)]\n",
    "loss": "def loss(model, batch, *, flip: bool = False):\n"
    "    return torch.tensor(-1.0 if flip else 1.0)\n",
}


def test_settings_reach_the_functions_that_have_them(tmp_path: Path) -> None:
    path = written(tmp_path, **SETTINGS)
    plain = Recipe(path)
    assert plain.settings == {"hidden": 4, "name": "a", "noise": 0.5, "flip": False}
    assert list(plain.train_data(0, 1)[0]) == [(4, 0.5)]
    given = Recipe(path, {"hidden": "6", "flip": "true", "name": "abc"})
    assert given.settings == {"hidden": 6, "name": "abc", "noise": 0.5, "flip": True}
    model = given.build_model()
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == (3, 6)
    assert list(given.train_data(0, 1)[0]) == [(6, 0.5)]
    assert given.loss(model, None).item() == -1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"size": "1"},
            "has no option 'size'; its options are: flip, hidden, name, noise$",
        ),
        ({"hidden": "a"}, '^settings={"hidden": "a"} is not a whole number$'),
        ({"flip": "maybe"}, '^settings={"flip": "maybe"} is not true or false$'),
        ({"rank": "1"}, "has no option 'rank'"),
    ],
)
def test_settings_that_are_refused(given: dict[str, str], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, **SETTINGS)
    with pytest.raises(UsageError, match=message):
        Recipe(path, given)


@pytest.mark.parametrize("second", ["hidden: int = 5", "hidden: float = 4"])
def test_one_setting_with_two_defaults(second: str, tmp_path: Path) -> None:
    train = f"def train_data(*, {second}):\n    return []\n"
    path = written(tmp_path, **{**SETTINGS, "train_data": train})
    with pytest.raises(RecipeError) as caught:
        Recipe(path)
    assert str(caught.value) == (
        f"{path}: setting hidden of train_data has another type or default elsewhere; "
        "use one constant for both"
    )


@pytest.mark.parametrize("bad", ["hidden=4", "hidden: list = []", "hidden: 'int | None' = None"])
def test_settings_of_another_kind(bad: str, tmp_path: Path) -> None:
    path = written(tmp_path, train_data=f"def train_data(*, {bad}):\n    return []\n")
    with pytest.raises(RecipeError, match=r"recipe.py: in train_data\(\), hidden needs an annot"):
        Recipe(path)


# Data that a recipe shares out itself.


@pytest.mark.parametrize(
    ("head", "shares"),
    [
        ("*, rank: int = 0, world: int = 1", True),
        ("rank: int = 0, world: int = 1", True),
        ("rank=0, world=1", True),
        ("*, world: int = 1", False),
        ("", False),
    ],
)
def test_rank_and_world(head: str, shares: bool, tmp_path: Path) -> None:
    text = f"def train_data({head}):\n    return [{'(rank, world)' if shares else '0'}]\n"
    recipe = Recipe(written(tmp_path, train_data=text))
    data, own = recipe.train_data(2, 5)
    assert own == shares
    assert list(data) == ([(2, 5)] if shares else [0])
    assert recipe.settings == {}
