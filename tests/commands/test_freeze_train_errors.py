"""What can go wrong in a training: one clear line, exit 1 or 2, and nothing lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands.forkserver import Server
from tests.commands.shell import BESIDE, names, one_line
from tests.commands.tiny import RECIPE, changed, write_model, write_recipe
from tests.helpers import elsa, read_safetensors, write_safetensors

pytest.importorskip("torch")

NAN_LATER = changed(
    "    return F.cross_entropy(model(points), kind)",
    "    build_model.calls = getattr(build_model, 'calls', 0) + 1\n"
    "    return F.cross_entropy(model(points), kind) / (build_model.calls != 13)",
)
BAD_RECIPES = {
    "no loss": (
        changed("def loss(", "def lost("),
        1,
        r"recipe.py: has no function loss; define loss\(model, batch\) -> a tensor",
    ),
    "other signature": (
        changed("def loss(model, batch)", "def loss(batch)"),
        1,
        r"recipe.py: loss\(batch\) cannot be called as loss\(model, batch\); define loss\(model",
    ),
    "raises in loss": (
        changed("points, kind = batch", "points, kind = batch[0]"),
        1,
        r"recipe.py:\d+: loss: ValueError: too many values to unpack",
    ),
    "raises in train_data": (
        changed("rows % 3", "rows @ 3"),
        1,
        r"recipe.py:\d+: train_data: TypeError: ",
    ),
    "raises in evaluate": (
        changed("found = model(points)", "found = model(kind)"),
        1,
        r"recipe.py:\d+: evaluate: RuntimeError: ",
    ),
    "not Python": ("def build_model(:\n", 1, r"recipe.py:1: import: SyntaxError: "),
    "a package that is missing": (
        "import nonsuch.deep\n" + RECIPE,
        1,
        r"recipe.py:1: needs the package nonsuch, which is not installed; .*pip install nonsuch",
    ),
    "no model": (
        changed("return nn.Sequential(", "return str("),
        1,
        r"recipe.py:\d+: build_model: ",
    ),
    "empty data": (
        changed("batches: int = 8", "batches: int = 0"),
        1,
        r"recipe.py: train_data gave 0 batches in an epoch, a step needs 1",
    ),
    "a graph that is cut": (
        changed("F.cross_entropy(model(points), kind)", "torch.ones(())"),
        1,
        r"recipe.py: no parameter that the joint phase trains got a gradient in any of 20 steps, "
        r"so nothing was trained; something cuts it off from the loss: ",
    ),
    "no length": (
        changed("    def __len__", "    def length"),
        2,
        r"recipe.py: the recipe's train_data has no length, .*; use --steps",
    ),
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_recipes_that_cannot_be_used(server: Server, tmp_path: Path, name: str) -> None:
    text, code, message = BAD_RECIPES[name]
    write_model(tmp_path)
    write_recipe(tmp_path, text)
    done = server.run(
        *("freeze-train", "model.elsa.safetensors", "--recipe", "recipe.py", "-q"), cwd=tmp_path
    )
    assert done.code == code
    assert re.search(f"^Error: {message}", one_line(done.err)), done.err
    assert not (tmp_path / "model.trained.elsa.safetensors").exists()
    shown = server.run(
        *("freeze-train", "model.elsa.safetensors", "--recipe", "recipe.py", "--debug"),
        cwd=tmp_path,
    )
    assert "Traceback" in shown.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ("--device", "abacus"),
            2,
            r"--device abacus cannot be used \(.*\); use auto, cpu, or cuda",
        ),
        (("--device", "cuda:9"), 2, r"--device cuda:9 cannot be used"),
        (("--epochs", "1,2"), 2, r"--epochs has 2 values for 4 levels; .*0.9, 0.7, 0.5, dense"),
        (("--lr", "much"), 2, r"--lr much: not numbers with commas"),
        (("--steps", "1.5"), 2, r"--steps 1.5: not whole numbers"),
        (("--epochs", "1", "--steps", "1"), 2, r"--epochs and --steps both say how long"),
        (("--lr", "-1"), 2, r"--lr -1.0 is negative or not finite"),
        (
            ("--init", "zero"),
            2,
            r"--init zero throws away what the joint phase trains; add",
        ),
        (
            ("--reselect", "--joint-epochs", "0"),
            2,
            r"--reselect chooses masks after the joint phase; leave out --joint-epochs 0",
        ),
        (("--levels", "0.5"), 2, r"model.elsa.safetensors: has its levels already; leave out"),
        (("--include", "0.*"), 2, r"--include, --exclude and --role choose .* add --levels"),
        (
            ("--set", "hiden=3"),
            2,
            r"recipe recipe.py has no option 'hiden'; its options are: batch, ",
        ),
        (("--set", "hidden=x"), 2, r"--set hidden=x is not a whole number"),
        (("--optimizer", "recipe"), 1, r"recipe.py: has no function optimizer; define optimizer\("),
        (("--schedule", "recipe"), 1, r"recipe.py: has no function schedule; define schedule\("),
        (("--log-every", "3"), 2, r"--log-every needs a file; add --log"),
        (("--log", "no/such/log"), 1, r"no/such/log: cannot be written: No such file"),
        (("-o", "no/such/out"), 1, r"no/such/out: its folder does not exist; mkdir -p"),
        (("-o", "model.elsa.safetensors"), 2, r"model.elsa.safetensors: the output is also an inp"),
        (("--no-clobber", "-o", "model.safetensors"), 1, r"model.safetensors: exists already"),
        (
            ("-o", "-", "--resume"),
            2,
            r"a run into standard output has no save; name a file with -o",
        ),
        (
            ("--accumulate", "9"),
            1,
            r"recipe.py: train_data gave 8 batches in an epoch, a step needs",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_options_that_cannot_be_meant(
    server: Server, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    write_model(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    done = server.run(
        *("freeze-train", "model.elsa.safetensors", "--recipe", "recipe.py", *options, "-q"),
        cwd=tmp_path,
    )
    assert done.code == code, done.err
    assert re.search(f"^Error: {message}", one_line(done.err)), done.err
    after = {name: (tmp_path / name).read_bytes() for name in before}
    assert after == before
    assert set(names(tmp_path)) - {"__pycache__"} == set(before)


def test_missing_files(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    line = ("freeze-train", "model.elsa.safetensors", "--recipe", "absent.py")
    done = server.run(*line, cwd=tmp_path)
    assert (done.code, one_line(done.err)) == (
        2,
        "Error: absent.py: there is no such recipe; name a Python file",
    )
    done = server.run("freeze-train", "absent", "--recipe", "recipe.py", cwd=tmp_path)
    assert (done.code, one_line(done.err)) == (1, "Error: absent: does not exist")
    done = server.run("freeze-train", "model.safetensors", "--recipe", "recipe.py", cwd=tmp_path)
    assert done.code == 2
    assert "model.safetensors: a checkpoint without masks needs levels" in one_line(done.err)


def test_a_checkpoint_that_does_not_fit_is_shown_side_by_side(
    server: Server, tmp_path: Path
) -> None:
    write_model(tmp_path)
    tensors, _ = read_safetensors(tmp_path / "model.safetensors")
    renamed = [
        (name.replace("4.", "fc."), dtype, shape, data)
        for name, (dtype, shape, data) in tensors.items()
    ]
    write_safetensors(tmp_path / "other.safetensors", renamed)
    line = ("freeze-train", "other.safetensors", "--levels", "0.5", "--recipe", "recipe.py")
    quiet = server.run(*line, "-q", cwd=tmp_path)
    assert quiet.code == 1
    assert re.search(
        r"^Error: other.safetensors: does not fit the recipe's model: 2 tensors are only in the "
        r"checkpoint, 2 only in the model \(fc.bias \[24\] \| 4.bias \[24\]; "
        r"fc.weight \[24, 24\] \| 4.weight \[24, 24\]\); build_model",
        one_line(quiet.err),
    )
    shown = server.run(*line, cwd=tmp_path)
    assert re.search(r"only in the checkpoint +only in the model", shown.err)
    assert re.search(r"fc.weight \[24, 24\] +4.weight \[24, 24\]", shown.err)
    wide = server.run(*line[:1], "model.elsa.safetensors", *line[4:], "--set", "hidden=8", "-q",
                      cwd=tmp_path)  # fmt: skip
    assert wide.code == 1
    assert (
        "11 tensors differ (0.bias [24] | 0.bias [8]; 0.weight [24, 6] | 0.weight [8, 6]"
        in one_line(wide.err)
    )


def test_a_loss_that_is_not_a_number_keeps_the_last_save(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    write_recipe(tmp_path, NAN_LATER)
    line = [*["freeze-train", "model.elsa.safetensors", "--recipe", "recipe.py"]]
    line += ["--steps", "10", "--joint-epochs", "0"]
    done = server.run(*line, "-q", cwd=tmp_path)
    assert done.code == 1
    message = one_line(done.err)
    assert "recipe.py: the loss is inf at step 3 of level 0.7; lower --lr, or use" in message
    assert "what was saved before is in model.trained.elsa.safetensors.resume" in message
    assert not (tmp_path / "model.trained.elsa.safetensors").exists()
    write_recipe(tmp_path)  # mended
    again = server.run(*line, "--resume", cwd=tmp_path)
    assert again.code == 0, again.err
    assert "continuing from the save at step 10 of 40" in again.err
    assert "the recipe has changed since the save" in again.err
    whole = server.run(*line, "-o", "whole", cwd=tmp_path)
    assert whole.code == 0
    trained = tmp_path / "model.trained.elsa.safetensors"
    assert trained.read_bytes() == (tmp_path / "whole").read_bytes()


def test_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    (tmp_path / "recipe.py").write_text("")
    for command in ("freeze-train", "evaluate"):
        done = elsa(command, "--recipe", "recipe.py", "--help", cwd=tmp_path, env=BESIDE)
        assert done.returncode == 0
        done = elsa(command, "x", "--recipe", "recipe.py", cwd=tmp_path, env=BESIDE)
        assert (done.returncode, one_line(done.stderr)) == (
            1,
            "Error: this needs torch, which is not installed; pip install 'elsa-cli[train]'",
        )
