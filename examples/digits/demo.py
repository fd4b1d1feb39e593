"""The main job on the digits network: one dense network is trained, four networks are shipped.

    python examples/digits/demo.py [FOLDER] [--epochs N] [--seed N]

Run by `make demo`. Each command is shown before it runs. The table at the end compares every level
after zeroing alone, after `elsa freeze-train`, and as a separate network that had as many epochs as
one level of the nested network. The figures of the table are also written to FOLDER/demo.json.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "digits.py"
LEVELS = ("0.9", "0.7", "0.5")
EPOCHS = 20  # of each level
THREADS = ("--threads", "1")  # the networks are too small for more


class Row(TypedDict):
    """What a level is worth; accuracies are in percent."""

    level: str
    kept: int
    nbytes: int  # of the packed file, to fetch
    zeroed: float
    nested: float
    alone: float


def run(folder: Path, *command: str, shown: str) -> str:
    """Show a command and run it in a folder; return what it printed."""
    print("$", shown, flush=True)
    done = subprocess.run(
        (sys.executable, *command), cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def elsa(folder: Path, *arguments: str) -> str:
    """Show an `elsa` command and run it in a folder; return what it printed."""
    return run(folder, "-m", "elsa_cli", *arguments, shown=shlex.join(("elsa", *arguments)))


def train(folder: Path, *arguments: str) -> None:
    """Show a training of the dense network and run it."""
    line = shlex.join(("python", "train.py", *arguments))
    print(run(folder, str(HERE / "train.py"), *arguments, shown=line), end="")


def measured(folder: Path, file: str) -> dict[str, dict[str, float]]:
    """Evaluate a file; return the accuracy, kept weights and bytes of each level."""
    line = ("evaluate", file, "--recipe", str(RECIPE), *THREADS, "--json", "-q")
    report = json.loads(elsa(folder, *line))
    return {row["level"]: row | row["metrics"] for row in report["levels"]}


def alone(folder: Path, level: str, epochs: int, seed: int) -> float:
    """Train a separate sparse network for `epochs` epochs; return its accuracy."""
    elsa(
        folder,
        *("freeze-train", "model.safetensors", "--levels", level, "--recipe", str(RECIPE)),
        *("--joint-epochs", "0", "--epochs", f"{epochs},0", "--seed", str(seed), *THREADS, "-q"),
        *("-o", f"alone-{level}.elsa.safetensors"),
    )
    return measured(folder, f"alone-{level}.elsa.safetensors")[level]["accuracy"]


def main(folder: Path, epochs: int, seed: int) -> None:
    """Run the commands in `folder`, draw the table and write `demo.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.safetensors"), *folder.glob("*.resume")):
        old.unlink()

    train(folder, "--seed", str(seed), "--output", "model.safetensors")
    elsa(folder, "sparsify", "model.safetensors", "--levels", ",".join(LEVELS))
    elsa(
        folder,
        *("freeze-train", "model.elsa.safetensors", "--recipe", str(RECIPE)),
        *("--epochs", str(epochs), "--seed", str(seed), *THREADS),
        *("-o", "trained.elsa.safetensors"),
    )
    zeroed = measured(folder, "model.elsa.safetensors")
    elsa(folder, "pack", "trained.elsa.safetensors")
    elsa(folder, "verify", "trained.packed.elsa.safetensors")
    elsa(
        folder,
        *("extract", "trained.packed.elsa.safetensors", "--level", ",".join((*LEVELS, "dense"))),
        *("-o", "digits-{level}.safetensors"),
    )
    trained = measured(folder, "trained.packed.elsa.safetensors")

    print("\nBeside them, separate networks, each with as many epochs as a level had:")
    separate = {level: alone(folder, level, epochs, seed) for level in LEVELS}
    train(
        folder,
        *("--start", "model.safetensors", "--epochs", str(epochs), "--lr", "0.001"),
        *("--seed", str(seed), "--output", "alone-dense.safetensors"),
    )
    from accuracy import measure

    separate["dense"] = 100 * measure(folder / "alone-dense.safetensors")["accuracy"]
    rows = [
        Row(
            level=level,
            kept=int(trained[level]["kept"]),
            nbytes=int(trained[level]["nbytes"]),
            zeroed=zeroed[level]["accuracy"],
            nested=trained[level]["accuracy"],
            alone=separate[level],
        )
        for level in ("dense", *reversed(LEVELS))
    ]
    result = {"seed": seed, "epochs": epochs, "levels": rows}
    (folder / "demo.json").write_text(json.dumps(result, indent=1) + "\n")
    _show(folder, rows)


def _show(folder: Path, rows: list[Row]) -> None:
    """Draw the table."""
    table = Table(title="digits: one file, four networks (accuracy on 360 test images)")
    for column in (
        *("level", "weights kept", "zeroing alone", "freeze-train", "trained alone"),
        "bytes to fetch",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["level"],
            f"{row['kept']:,}",
            f"{row['zeroed']:.1f} %",
            f"{row['nested']:.1f} %",
            f"{row['alone']:.1f} %",
            f"{row['nbytes']:,}",
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print()
    console.print(table)
    files = sum((folder / f"digits-{row['level']}.safetensors").stat().st_size for row in rows)
    console.print(
        f"Four separate files are {files:,} bytes; the packed one is "
        f"{rows[0]['nbytes']:,}.\nOne image is 0.28 points. "
        f"The files are in {folder}.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the main job on the digits network.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/demo"))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of each level")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    main(options.folder, options.epochs, options.seed)
