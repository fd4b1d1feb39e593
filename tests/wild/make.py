"""Make all cases again from the installed packages, and write `cases.json` beside them.

`python tests/wild/make.py FOLDER [K1 ...]`. A case that cannot be made, such as one whose package
is not installed, is named on standard error and left out, and the exit code is 1.
"""

import contextlib
import io
import json
import random
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.wild import wildlib

for _part in sorted(Path(__file__).parent.glob("k[1-6]*.py")):
    wildlib.use(f"tests.wild.{_part.stem}")


def one(case: wildlib.Case, folder: Path) -> dict[str, object]:
    """Make one case, write its file, and tell what it is."""
    torch.manual_seed(0)
    random.seed(0)
    wildlib.use("numpy.random").seed(0)
    quiet = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        warnings.simplefilter("ignore")
        made = case.make()
    path = folder / case.file
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in made.tensors.items()}, path)
    size = path.stat().st_size
    assert size < wildlib.LARGEST, f"{case.file}: {size} bytes"
    assert made.tensors.keys() == made.expect.keys(), case.file
    return {
        "kind": case.kind,
        "file": case.file,
        "package": wildlib.version(case.package),
        "where": case.where,
        "note": case.note,
        **made.more,
        "expect": made.expect,
    }


def main(folder: Path, kinds: list[str]) -> int:
    """Make the cases of the kinds named, or all."""
    told: list[dict[str, object]] = []
    wrong = 0
    for case in wildlib.CASES:
        if kinds and case.kind not in kinds:
            continue
        try:
            told.append(one(case, folder))
        except Exception as error:
            wrong += 1
            print(f"{case.file}: {type(error).__name__}: {error}"[:400], file=sys.stderr)
    (folder / "cases.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"{len(told)} cases, {wrong} not made")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
