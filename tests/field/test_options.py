"""What a user says of the choice: --include, --exclude, --role (K6), and what a report says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from elsa_cli import sparsify
from tests.field.tools import Choice, Field, normal

# A9
NET = {
    "net.norm.weight": 1 + normal(64, scale=0.1),
    "net.conv.weight": normal(64, 64, 3, 3),
    "net.conv.bias": normal(64),
    "net.embed.weight": normal(50, 64),
    "net.mask": torch.ones(64, 64).tril(),
    "vae.w": normal(8, 8),
}
ROLES = {
    "net.norm.weight": "norm",
    "net.conv.weight": "weight",
    "net.conv.bias": "bias",
    "net.embed.weight": "embedding",
    "net.mask": "constant",
    "vae.w": "weight",
}
# Names that are themselves globs: a name written out means itself.
ODD = {
    name: normal(8, 8)
    for name in ("blocks[0].w", "blocks[1].w", "blocks0.w", "a*.w", "ab.w", "x?.w")
}

CASES: dict[str, tuple[dict[str, Any], set[str], dict[str, str]]] = {
    "nothing": ({}, {"net.conv.weight", "vae.w"}, {}),
    "glob": ({"include": ["net.*"]}, {"net.conv.weight", "net.embed.weight"}, {}),
    "glob of all": (
        {"include": ["*"]},
        {"net.conv.weight", "net.embed.weight", "vae.w"},
        {},
    ),
    "in full": ({"include": ["net.norm.weight"]}, {"net.norm.weight"}, {}),
    "both": (
        {"include": ["net.conv.*", "net.conv.bias"]},
        {"net.conv.weight", "net.conv.bias"},
        {},
    ),
    "taken away": (
        {"include": ["net.*"], "exclude": ["net.embed*"]},
        {"net.conv.weight"},
        {},
    ),
    "excluded": ({"exclude": ["vae.*"]}, {"net.conv.weight"}, {}),
    "a role": (
        {"roles": ["vae.w=head", "net.embed.weight=weight"]},
        {"net.conv.weight", "net.embed.weight"},
        {"vae.w": "head", "net.embed.weight": "weight"},
    ),
    "the last role": (
        {"roles": ["*=other", "net.conv.*=weight", "net.conv.bias=bias"]},
        {"net.conv.weight"},
        dict.fromkeys(ROLES, "other") | {"net.conv.weight": "weight", "net.conv.bias": "bias"},
    ),
    "a constant that is a weight": (
        {"roles": ["net.mask=weight"]},
        {"net.conv.weight", "vae.w", "net.mask"},
        {"net.mask": "weight"},
    ),
    "a role and a glob": (
        {"roles": ["net.embed.weight=other"], "include": ["net.*"]},
        {"net.conv.weight"},
        {"net.embed.weight": "other"},
    ),
}


def flags(options: dict[str, Any]) -> list[str]:
    """Return the options as the command line takes them."""
    spelled = {"include": "--include", "exclude": "--exclude", "roles": "--role"}
    return [word for key, values in options.items() for v in values for word in (spelled[key], v)]


@pytest.mark.parametrize("case", CASES)
def test_the_choice(field: Field, case: str) -> None:
    """The command line and Python choose the same, and nothing else changes."""
    options, pruned, roles = CASES[case]
    choice = field.sparsify(NET, "--scope", "layer", *flags(options))
    assert choice.pruned == pruned
    assert choice.roles == ROLES | roles
    for name in roles:
        assert choice.reasons[name] == "as it was asked for"
    for name, role in choice.dense.items():
        if role == "weight":
            assert choice.reasons[name] == "left out by the options"
    field.check_levels(NET, choice)
    report = sparsify(
        field.folder / "model.safetensors",
        "0.9",
        field.folder / "python.elsa.safetensors",
        scope="layer",
        **options,
    )
    assert [t.name for t in report.tensors] == [row["name"] for row in choice.json["tensors"]]
    written = (field.folder / "python.elsa.safetensors").read_bytes()
    assert written == (field.folder / "model.elsa.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--exclude", "blocks[1].w"], {"blocks[1].w"}),
        (["--exclude", "blocks[0].w"], {"blocks[0].w"}),
        (["--exclude", "a*.w"], {"a*.w"}),
        (["--exclude", "blocks[[]0].w"], {"blocks[0].w"}),
        (["--include", "blocks[1].w"], ODD.keys() - {"blocks[1].w"}),
        (["--include", "x?.w"], ODD.keys() - {"x?.w"}),
        (["--role", "blocks[1].w=head"], {"blocks[1].w"}),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_a_name_that_is_a_glob_means_itself(
    field: Field, options: list[str], gone: set[str]
) -> None:
    choice = field.sparsify(ODD, *options)
    assert choice.dense.keys() == gone


def test_an_empty_weight_is_left_for_being_empty(field: Field) -> None:
    choice = field.sparsify({"fc1.weight": normal(8, 8), "none.weight": normal(0, 8)})
    assert choice.dense == {"none.weight": "weight"}
    assert choice.reasons["none.weight"] == "it has no elements"


def test_the_name_of_a_norm_takes_it_and_says_so(field: Field) -> None:
    choice = field.sparsify(NET, "--include", "net.norm.weight", "--scope", "layer")
    assert choice.warned == [
        "--include takes 1 tensor of other roles than weight: net.norm.weight (norm)"
    ]
    assert choice.kept("net.norm.weight") == [6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--include", "netz.*"],
            "--include 'netz.*' matches no tensor; `elsa inspect` lists the names",
        ),
        (
            ["--exclude", "net"],
            "--exclude net matches no tensor; `elsa inspect` lists the names",
        ),
        (
            ["--role", "netz.*=head"],
            "the role of 'netz.*' is given, which matches no tensor; "
            "`elsa inspect` lists the names",
        ),
        (["--role", "net.*"], "'net.*' is not NAME=ROLE; such as 'decoder.*=head'"),
        (
            ["--role", "net.*=heads"],
            "there is no role 'heads'; roles are weight, embedding, head, router, norm, bias, "
            "position, constant, codes, scale, other",
        ),
        (
            ["--include", "net.*", "--exclude", "net.conv.*", "--exclude", "net.embed.*"],
            "no tensor is left to prune: none that can be pruned is matched by --include and not "
            "by --exclude; write a tensor's name in full to prune it whatever it is",
        ),
        (
            ["--group-dim", "0"],
            "--group-dim says where groups run; use it with --group",
        ),
    ],
    ids=str,
)
def test_what_is_refused(field: Field, options: list[str], message: str) -> None:
    assert field.refused(NET, *options, code=2) == message


def shown(err: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first column has a title, split at wide gaps."""
    lines = [line.strip() for line in err.splitlines()]
    (at,) = [i for i, line in enumerate(lines) if line.startswith(first)]
    rows = []
    for line in lines[at + 2 :]:
        if not line:
            break
        rows.append([cell.strip() for cell in line.split("   ") if cell.strip()])
    return rows


def test_the_tables(field: Field) -> None:
    """Roles without -v; with -v a row a tensor, its role and the reason too."""
    file = field.save(NET)
    wide = {"COLUMNS": "200"}
    line = ("sparsify", file, "--levels", "0.9", "--dry-run")
    plain = field.server.run(*line, cwd=field.folder, env=wide)
    assert plain.code == 0
    assert shown(plain.err, "left dense") == [
        ["embedding", "1", "3,200", "net.embed.weight"],
        ["norm", "1", "64", "net.norm.weight"],
        ["bias", "1", "64", "net.conv.bias"],
        ["constant", "1", "4,096", "net.mask"],
    ]
    assert "told by" not in plain.err
    verbose = field.server.run(*line, "-v", "--json", cwd=field.folder, env=wide)
    choice = Choice(json.loads(verbose.out), verbose.err)
    assert choice.json["output"] is None
    rows = {row[0]: row[1:] for row in shown(verbose.err, "tensor")}
    assert rows.keys() == NET.keys()
    for name, cells in rows.items():
        assert cells[0] == "x".join(map(str, NET[name].shape))
        assert cells[-2] == ROLES[name]
        assert choice.reasons[name].startswith(cells[-1].rstrip("…"))
        assert (cells[2] == "dense") == (name in choice.dense)
    assert shown(verbose.err, "left dense") == shown(plain.err, "left dense")
    quiet = field.run(*line, "-q", "-v")
    assert (quiet.code, quiet.err) == (0, "")


def test_the_report_and_the_manifest(field: Field) -> None:
    """What a pipeline reads: the fields, and what told the roles in the file itself."""
    choice = field.sparsify(NET, "--scope", "layer", levels="0.9,0.5")
    assert choice.json["told_by"] == "names"
    assert choice.json["warnings"] == []
    assert choice.json["skipped"] == []
    assert {row["name"]: row for row in choice.json["tensors"]}["vae.w"] == {
        "name": "vae.w",
        "shape": [8, 8],
        "dtype": "F32",
        "numel": 64,
        "kept": [6, 32],
        "role": "weight",
        "reason": "its name: every layer",
        "group_dim": None,
    }
    assert {row["name"]: row for row in choice.json["left"]}["net.mask"] == {
        "name": "net.mask",
        "shape": [64, 64],
        "dtype": "F32",
        "numel": 4096,
        "role": "constant",
        "reason": "its name: attention masks: GPT-2, nanoGPT, Swin, Reformer, MinGPT",
    }
    method = field.manifest()["method"]
    assert method["roles"] == {"rules": 2, "told_by": "names"}
    assert "group_dims" not in method
