"""Docs are tests: every block of the README runs, and pasted help is what the program prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.commands.forkserver import shared

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model and a recipe, as the README takes them to be there."""
    shutil.copy(ROOT / "examples/digits/model.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "examples/digits").mkdir(parents=True)
    shutil.copy(ROOT / "examples/digits.py", tmp_path / "examples")
    for part in ("train", "test"):
        shutil.copy(ROOT / f"examples/digits/{part}.safetensors", tmp_path / "examples/digits")
    return tmp_path


def environment() -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path}


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run shell lines as a user would, up to the first that fails; `elsa` is a fork."""
    here = environment()
    here["PATH"] = os.pathsep.join((str(shared("torch").bin), here["PATH"]))
    return subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_readme_shell_blocks_run_in_order_in_one_folder(folder: Path) -> None:
    shell = blocks("sh")
    assert len(shell) >= 7
    done = bash("\n".join(shell), folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.json").read_text().startswith("{")
    for a, b in (
        ("from-packed.safetensors", "out-0.9.safetensors"),
        ("dense.safetensors", "model.safetensors"),
    ):
        assert (folder / a).read_bytes() == (folder / b).read_bytes()


def test_readme_pipe_writes_the_same_bytes(folder: Path) -> None:
    first, second = blocks("sh")[:2]
    for script in (first, second):
        assert bash(script, folder).returncode == 0
        (folder / "sparse.safetensors").rename(folder / f"{len(script)}.safetensors")
    a, b = (folder / f"{len(script)}.safetensors" for script in (first, second))
    assert a.read_bytes() == b.read_bytes()


def run_python(block: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_python_block_runs(folder: Path) -> None:
    (block,) = blocks("python")
    printed = run_python(block, folder)
    assert "of 84480" in printed
    assert "'accuracy': 9" in printed


def test_recipes_page_runs_as_written(tmp_path: Path) -> None:
    page = (ROOT / "docs/recipes.md").read_text()
    recipe, loop = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "recipe.py").write_text(recipe)
    run_python(loop, tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("elsa ")]
    assert len(lines) == 2
    done = bash("\n".join(lines), tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"level +accuracy", done.stderr)


def test_commands_page_is_up_to_date() -> None:
    page = ROOT / "docs/commands.md"
    harness = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); "
        "import make_commands; print(make_commands.text(), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", harness], capture_output=True, text=True, check=True
    )
    assert page.read_text() == done.stdout, "run `make docs`"


def test_demo_runs_and_shows_every_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_from_file_location("demo", ROOT / "examples/digits/demo.py")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.syspath_prepend(ROOT / "examples/digits")  # as for a script
    demo = module_from_spec(spec)
    spec.loader.exec_module(demo)
    start = demo.run

    def run(folder: Path, *command: str, shown: str) -> str:
        """Do what the demo does, in a fork where the command is `elsa`; else train less."""
        if command[:2] != ("-m", "elsa_cli"):
            fewer = () if "--epochs" in command else ("--epochs", "20")
            return str(start(folder, *command, *fewer, shown=shown))
        done = shared("torch").call(*command[2:], cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    monkeypatch.setattr(demo, "run", run)
    demo.main(tmp_path / "demo", 3)
    printed = capsys.readouterr().out
    for level in ("dense", "0.5", "0.7", "0.9"):
        row = re.search(rf"│ +{re.escape(level)} │(.*)│", printed)
        assert row, printed
        zeroed, trained, alone = (float(x) for x in re.findall(r"([0-9.]+) %", row[1]))
        assert trained > 95
        assert alone > 95
        assert trained > zeroed or zeroed > 95


def test_relative_links_of_the_docs_lead_somewhere() -> None:
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
