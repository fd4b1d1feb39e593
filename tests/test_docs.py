"""Docs are tests: every block of the README runs and prints what stands below it."""

from __future__ import annotations

import importlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

from elsa_cli import load_level, open_nested, pack, sparsify
from tests.commands.forkserver import shared

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
# Benchmarks and `make docs` write the other pages.
BY_HAND = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/digits/README.md"),
    *("docs/checkpoints.md", "docs/format.md", "docs/recipes.md"),
)
WIDTH = 100


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """docs/make_readme.py, which writes the outputs into the README."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("make_readme")
    finally:
        sys.path.remove(str(ROOT / "docs"))


@pytest.fixture
def folder(tmp_path: Path, maker: ModuleType) -> Path:
    """A folder with a model and a recipe, as the README takes them to be there."""
    maker.prepare(tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path}


def settled(text: str) -> str:
    """Return a text without what differs from run to run and from CPU to CPU.

    That is, of a training: losses, accuracies and times. The widths of their columns differ too.
    """
    text = re.sub(r"(?<=steps in ).*", "…", text)
    training = re.search(r"^ level +weights kept +steps .*time$", text, re.M)
    lines = []
    for line in text.splitlines():
        words = re.sub("─+", "─", line).split()
        if training and re.match(r" [0-9a-z.]+ +[0-9,]+ +[0-9,]+ ", line):
            words = [*words[:3], "…"]
        elif re.match(r" [0-9a-z.]+ +[0-9.]+ +[0-9,]+ +[0-9.]+ kB$", line):  # of evaluate
            words[1] = "…"
        lines.append(" ".join(words))
    return "\n".join(lines)


def test_settled_leaves_what_does_not_vary() -> None:
    row = " 0.9     8,448       10.00 %   76,032"
    assert settled(row) == "0.9 8,448 10.00 % 76,032"
    row = " 0.9            65.4 kB               16.2 %"
    assert settled(row) == "0.9 65.4 kB 16.2 %"
    row = " 0.9       99.167          8,448          65.4 kB"
    assert settled(row) == "0.9 … 8,448 65.4 kB"
    table = (
        " level   weights kept   steps     loss   accuracy    time\n"
        " 0.9            8,448      88   0.0726     99.167   3.2 s\n"
    )
    assert settled(table).splitlines()[1] == "0.9 8,448 88 …"
    assert settled("level 0.9: 88 steps in 3.2 s  loss 0.1") == "level 0.9: 88 steps in …"


@pytest.fixture
def forks(maker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `elsa` in shell lines be a fork of a process that has imported torch already."""
    run = maker.bash

    def bash(script: str, folder: Path) -> str:
        return str(run(f"PATH={shared('torch').bin}:$PATH\n{script}", folder))

    monkeypatch.setattr(maker, "bash", bash)


@pytest.mark.usefixtures("forks")
def test_readme_blocks_run_in_order_and_print_what_stands_there(
    folder: Path, maker: ModuleType
) -> None:
    languages = [language for language, _ in maker.BLOCK.findall(README)]
    assert languages.count("console") >= 3
    assert languages.count("sh") >= 6
    printed = maker.perform(README, folder)
    assert settled(printed) == settled(README), "run `make readme`"
    accuracies = re.findall(r"steps in .*accuracy (\S+)$", printed, re.M)
    assert len(accuracies) == 4
    assert min(map(float, accuracies)) > 95
    assert (folder / "report.json").read_text().startswith("{")
    for a, b in (
        ("from-packed.safetensors", "out-0.9.safetensors"),
        ("sparse.safetensors", "out-0.9.safetensors"),
        ("dense.safetensors", "model.safetensors"),
    ):
        assert (folder / a).read_bytes() == (folder / b).read_bytes()


def test_a_wrong_output_in_the_readme_is_seen(folder: Path, maker: ModuleType) -> None:
    text = "```console\n$ echo right\nwrong\n$ cat none \\\n    || true\n$ true\n```\n"
    assert list(maker.session("$ echo right\nwrong\n$ a \\\n  b\n$ true\n")) == [
        ("echo right", "wrong\n"),
        ("a \\\n  b", ""),
        ("true", ""),
    ]
    done = maker.perform(text, folder)
    assert done.startswith(
        "```console\n$ echo right\nright\n\n$ cat none \\\n    || true\ncat: none"
    )
    assert done.endswith("\n\n$ true\n```\n")
    with pytest.raises(maker.Failed, match="false"):
        maker.perform("```sh\nfalse\n```\n", folder)


def test_readme_pipe_writes_the_same_bytes_as_its_first_two_lines(
    folder: Path, maker: ModuleType
) -> None:
    (language, first), *_ = maker.BLOCK.findall(README)
    assert language == "console"
    lines = [command for command, _ in maker.session(first)][:2]
    assert lines == [  # the two lines that stand first on the page
        "elsa sparsify model.safetensors --levels 0.5,0.7,0.9",
        "elsa extract --level 0.9 -o sparse.safetensors",
    ]
    pipe = next(block for language, block in maker.BLOCK.findall(README) if language == "sh")
    assert re.sub(r"\s+", " ", pipe).strip() == " | ".join(lines)
    found = []
    for script in ("\n".join(lines), pipe):
        maker.bash(script, folder)
        found.append((folder / "sparse.safetensors").read_bytes())
        (folder / "sparse.safetensors").unlink()
    assert found[0] == found[1]


def test_readme_table_is_that_of_the_figures(maker: ModuleType) -> None:
    assert maker.TABLE.search(README)
    assert maker.with_table(README) == README, "run `make readme`"


def run_python(block: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_python_block_runs(folder: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    printed = run_python(block, folder)
    assert "of 84480" in printed
    assert "'accuracy': 9" in printed


def test_recipes_page_runs_as_written(tmp_path: Path, maker: ModuleType) -> None:
    page = (ROOT / "docs/recipes.md").read_text()
    recipe, loop = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "recipe.py").write_text(recipe)
    run_python(loop, tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("elsa ")]
    assert len(lines) == 2
    assert re.search(r"level +accuracy", maker.bash("\n".join(lines), tmp_path))


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


def test_demo_runs_and_shows_every_level(tmp_path: Path) -> None:
    script = str(ROOT / "examples/digits/demo.py")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "demo"), "--epochs", "3"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "demo/demo.json").read_text())
    assert (figures["seed"], figures["epochs"]) == (0, 3)
    rows = {row["level"]: row for row in figures["levels"]}
    assert list(rows) == ["dense", "0.5", "0.7", "0.9"]
    for level, row in rows.items():
        shown = re.search(rf"│ +{re.escape(level)} │(.*)│", done.stdout)
        assert shown, done.stdout
        accuracies = [f"{row[key]:.1f}" for key in ("zeroed", "nested", "alone")]
        assert re.findall(r"([0-9.]+) %", shown[1]) == accuracies
        assert row["nested"] > 95
        assert row["alone"] > 95
        assert row["nested"] > row["zeroed"] or row["zeroed"] > 95


def test_picture_is_drawn_from_runs_of_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "make_picture.py").write_text((ROOT / "docs/make_picture.py").read_text())
    runs = json.loads((ROOT / "docs/digits.json").read_text())["runs"]
    assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4]
    for run in runs[::-1]:
        (tmp_path / f"{run['seed']}.json").write_text(json.dumps(run))
    files = sorted(str(file) for file in tmp_path.glob("*.json"))[::-1]
    done = subprocess.run(
        [sys.executable, str(docs / "make_picture.py"), *files],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{docs / 'digits.png'}\n"
    assert (docs / "digits.json").read_bytes() == (ROOT / "docs/digits.json").read_bytes()
    assert (docs / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_format_page_has_the_bytes_of_its_example(tmp_path: Path) -> None:
    page = (ROOT / "docs/format.md").read_text()
    example = page.partition("\n## An example of eight weights\n")[2].partition("\n## ")[0]
    table = {
        cells[0]: cells[1:]
        for line in re.findall(r"^\| (.*) \|$", example, re.M)
        if (cells := [cell.strip() for cell in line.split("|")])
    }
    dense = [float(cell.replace("−", "-")) for cell in table["dense weights"][:8]]
    weights = np.array(dense, np.float32).reshape(2, 4)
    plain, nested, packed = (str(tmp_path / f"{x}.elsa.safetensors") for x in "pnk")
    save_file({"fc.weight": weights, "fc.bias": np.ones(2, np.float32)}, plain)
    assert sparsify(plain, "0.5,0.75", nested).kept == (2, 4)
    pack(nested, packed)

    with open_nested(packed) as reader:
        for level in ("0.75", "0.5"):
            bits = reader.mask(level, "fc.weight").ravel()
            row = table[f"mask of {level}"]
            assert row[:8] == [str(int(bit)) for bit in bits]
            assert row[8] == f"`{np.packbits(bits, bitorder='little').tobytes().hex()}`"
        sparse, half = (reader.mask(level, "fc.weight").ravel() for level in ("0.75", "0.5"))
    owners = np.where(sparse, "0.75", np.where(half, "0.5", "dense"))
    assert table["shell"][:8] == owners.tolist()

    data = Path(packed).read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    manifest = json.loads(header.pop("__metadata__")["elsa"])
    rows = [cells for cells in table.items() if re.fullmatch(r"\d+–\d+", cells[0])]
    assert {name: "{}–{}".format(*entry["data_offsets"]) for name, entry in header.items()} == {
        cells[0].strip("`"): extent for extent, cells in rows
    }
    assert "".join(f"{bit:d} " for bit in sparse).strip() in table["8–16"][1]
    assert "".join(f"{bit:d} " for bit in half[~sparse]).strip() in table["24–32"][1]
    for extent, level in (("16–24", "0.75"), ("32–40", "0.5"), ("40–56", "dense")):
        first, last = map(int, extent.split("–"))
        values = np.frombuffer(data[start + first : start + last], "<f4")
        assert values.tolist() == weights.ravel()[owners == level].tolist()
        words = re.findall(r"−?\d+\.\d+", table[extent][1])
        assert [np.float32(word.replace("−", "-")) for word in words] == values.tolist()

    prefixes = [start + int(x) for x in re.findall(r"\*d\* \+ (\d+)(?: bytes long|,)", example)]
    assert prefixes == manifest["prefix"]
    assert f"first *d* + {prefixes[0] - start} bytes are enough" in example
    cut = tmp_path / "cut.elsa.safetensors"
    cut.write_bytes(data[: prefixes[0]])
    network = load_level(cut, "0.75", framework="numpy")["fc.weight"]
    shown = re.search(r"`(\[\[.*\]\])`", example)
    assert shown
    expected = json.loads(shown[1].replace("−", "-"))
    assert network.tobytes() == np.array(expected, np.float32).tobytes()


def test_relative_links_of_the_docs_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text()):
            other = page.parent / target if target else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", other.read_text(), re.M)
                anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor[1:] in anchors, f"{page.name}: {target}{anchor}"


@pytest.mark.parametrize("page", BY_HAND)
def test_prose_is_wrapped(page: str) -> None:
    text = (ROOT / page).read_text()
    text = re.sub(r"^```(console|text)\n.*?^```$", "", text, flags=re.M | re.S)
    lines = [line for line in text.splitlines() if "](" not in line and not line.startswith("|")]
    assert not [line for line in lines if len(line) > WIDTH]
