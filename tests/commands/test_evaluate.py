"""`elsa evaluate`: the recipe's metrics of every level, as a table, as JSON, as a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from elsa_cli import inspect, load_level
from elsa_cli.models.recipe import Recipe
from tests.commands.forkserver import Server
from tests.commands.shell import BESIDE, names, one_line
from tests.commands.tiny import LEVELS, RECIPE, changed, write_model, write_recipe

torch = pytest.importorskip("torch")

LINE = ("evaluate", "model.elsa.safetensors", "--recipe", "recipe.py")


def test_every_level_is_measured_as_extracted(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    train = ("freeze-train", *LINE[1:], "--steps", "9", "-o", "trained.elsa.safetensors")
    assert server.run(*train, cwd=tmp_path).code == 0
    assert server.run("pack", "trained.elsa.safetensors", "-o", "packed", cwd=tmp_path).code == 0
    recipe = Recipe(tmp_path / "recipe.py")
    model = recipe.build_model()
    rows = {}
    for file, kind in (("trained.elsa.safetensors", "nested"), ("packed", "packed")):
        done = server.run("evaluate", file, *LINE[2:], "--json", cwd=tmp_path)
        assert done.code == 0, done.err
        report = json.loads(done.out)
        assert (report["checkpoint"], report["kind"]) == (file, kind)
        rows[kind] = report["levels"]
        assert [row["level"] for row in rows[kind]] == list(LEVELS)
        for row in rows[kind]:
            model.load_state_dict(load_level(tmp_path / file, row["level"]))
            assert row["metrics"] == recipe.evaluate(model)
    prefixes = [level.prefix for level in inspect(tmp_path / "packed").levels]
    assert [row["nbytes"] for row in rows["packed"]] == prefixes
    header = min(prefixes[0] or 0, 8000)
    for estimate, exact in zip(rows["nested"], rows["packed"], strict=True):
        assert 0 < exact["nbytes"] - estimate["nbytes"] < header  # all but the header
        assert estimate["metrics"] == exact["metrics"]


def test_the_table_and_one_level(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    done = server.run(*LINE, cwd=tmp_path)
    assert (done.code, done.out) == (0, "model.elsa.safetensors\n")
    assert re.search(r"level +accuracy +loss +weights kept +bytes to fetch", done.err)
    for level in LEVELS:
        assert re.search(rf"^ *{re.escape(level)} +[0-9.]+ +[0-9.]+ +[0-9,]+ +≈ ", done.err, re.M)
    some = server.run(*LINE, "--level", "dense,90%", "--json", cwd=tmp_path)
    assert [row["level"] for row in json.loads(some.out)["levels"]] == ["0.9", "dense"]
    quiet = server.run(*LINE, "-q", cwd=tmp_path)
    assert (quiet.code, quiet.err) == (0, "")


@pytest.mark.parametrize(
    ("name", "magic"), [("plot.png", b"\x89PNG\r\n"), ("plot.svg", b"<?xml"), ("p.pdf", b"%PDF")]
)
def test_pictures(server: Server, tmp_path: Path, name: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    write_model(tmp_path)
    for _ in range(2):
        done = server.run(*LINE, "--plot", name, "-q", cwd=tmp_path)
        assert (done.code, done.err) == (0, ""), done.err
    picture = (tmp_path / name).read_bytes()
    assert picture.startswith(magic)
    assert server.run(*LINE, "--plot", "again" + name, cwd=tmp_path).code == 0
    assert (tmp_path / f"again{name}").read_bytes() == picture


@pytest.mark.parametrize(
    ("recipe", "options", "code", "message"),
    [
        (
            changed("def evaluate", "def measure"),
            (),
            1,
            r"recipe.py: has no function evaluate; def",
        ),
        (
            changed('"accuracy": 100', '"a": [0]}, {"b": 1'),
            (),
            1,
            r"recipe.py: evaluate gave a tup",
        ),
        (RECIPE, ("--level", "0.6"), 1, r"model.elsa.safetensors: level 0.6 is not stored; stored"),
        (
            RECIPE,
            ("--plot", "plot.gif"),
            2,
            r"plot.gif: is not a supported picture format; use .png, .svg",
        ),
        (RECIPE, ("--plot", "no/p.png"), 1, r"no/p.png: its folder does not exist"),
        (RECIPE, ("--device", "abacus"), 2, r"--device abacus cannot be used"),
        (
            RECIPE,
            ("--set", "hidden=8"),
            1,
            r"model.elsa.safetensors: does not fit the recipe's mod",
        ),
    ],
)
def test_errors(
    server: Server,
    tmp_path: Path,
    recipe: str,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    write_model(tmp_path)
    write_recipe(tmp_path, recipe)
    before = names(tmp_path)
    done = server.run(*LINE, *options, "-q", cwd=tmp_path)
    assert done.code == code
    assert re.search(f"^Error: {message}", one_line(done.err)), done.err
    assert set(names(tmp_path)) - {"__pycache__"} == set(before)


def test_a_plot_without_matplotlib(tmp_path: Path) -> None:
    from tests.helpers import elsa

    write_model(tmp_path)
    (tmp_path / "matplotlib.py").write_text("raise ImportError('none')")
    done = elsa(*LINE, "--plot", "p.png", cwd=tmp_path, env=BESIDE)
    assert (done.returncode, one_line(done.stderr)) == (
        1,
        "Error: plots need matplotlib, which is not installed; pip install 'elsa-cli[plot]'",
    )


def test_a_plain_checkpoint_has_no_levels(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    done = server.run("evaluate", "model.safetensors", *LINE[2:], cwd=tmp_path)
    assert done.code == 1
    assert "model.safetensors: holds no levels; make them with `elsa sparsify`" in done.err


def test_tensors_that_the_model_lacks_are_named(server: Server, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_model(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "position_ids": torch.arange(4)}, tmp_path / "more.safetensors")
    line = ("freeze-train", "more.safetensors", "--levels", "0.5", *LINE[2:], "--steps", "2")
    done = server.run(*line, "-o", "out.elsa.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "position_ids is not in the model: it stays as it is" in done.err
    trained = load_level(tmp_path / "out.elsa.safetensors", "0.5")
    assert torch.equal(trained["position_ids"], torch.arange(4))
    done = server.run("evaluate", "out.elsa.safetensors", *LINE[2:], cwd=tmp_path)
    assert (done.code, "position_ids is not in the model" in done.err) == (0, True)
