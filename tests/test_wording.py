"""Errors and warnings name parameters; the command line has an option for each of them."""

from __future__ import annotations

import ast
import copy
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import click
import pytest

import elsa_cli
from elsa_cli import TrainOptions
from elsa_cli.cli import cli
from elsa_cli.commands._wording import Speller
from elsa_cli.errors import Call, ElsaError, OutputExists, Param, Words

ROOT = Path(elsa_cli.__file__).parent
# The command line itself: what is said there may name options.
SPEAKS_OPTIONS = ("commands", "ui", "cli.py")
FILES = [
    f for f in sorted(ROOT.rglob("*.py")) if f.relative_to(ROOT).parts[0] not in SPEAKS_OPTIONS
]
OPTION = re.compile(r"(?<![\w.-])--?(?=[a-z])|(?<!-)--$|\belsa [a-z]")
# Options of other programs.
OTHERS = ("mkdir -p ", "start them with `torchrun --nproc-per-node N …`")
# The commands, with the public functions that each of them calls.
COMMANDS = {
    "evaluate": ["evaluate"],
    "extract": ["extract"],
    "freeze-train": ["freeze_train"],
    "inspect": ["inspect"],
    "pack": ["pack", "unpack"],
    "sparsify": ["sparsify"],
    "verify": ["verify"],
}


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@dataclass(frozen=True)
class Named:
    """A parameter or function that a message names, and where."""

    part: Param | Call
    file: str
    line: int


def docstrings(tree: ast.AST) -> set[ast.AST]:
    return {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def test_no_text_of_the_library_names_an_option() -> None:
    seen = 0
    for file in FILES:
        tree = ast.parse(file.read_text())
        skipped = docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node in skipped or node.value in OTHERS:
                    continue
                seen += 1
                assert not OPTION.search(node.value), f"{file}:{node.lineno}: {node.value!r}"
    assert seen > 1000


@pytest.mark.parametrize(
    "text",
    ["leave out --no-clobber", "name a file with -o", "--", "make it with `elsa sparsify` first"],
)
def test_the_scan_sees_options(text: str) -> None:
    assert OPTION.search(text)


def test_templates_are_literal() -> None:
    """A value inside a template could hold a field."""
    seen = 0
    for file in FILES:
        if file == ROOT / "errors/wording.py":
            continue
        for node in calls(ast.parse(file.read_text()), "Words"):
            seen += 1
            template = node.args[0]
            joined = (
                isinstance(template, ast.Call)
                and isinstance(template.func, ast.Attribute)
                and template.func.attr == "join"
            )
            literal = isinstance(template, ast.Constant) and isinstance(template.value, str)
            assert literal or joined, f"{file}:{node.lineno}"
            starred = any(isinstance(arg, ast.Starred) for arg in node.args)
            if literal and not starred:
                assert isinstance(template, ast.Constant)
                assert isinstance(template.value, str)
                assert template.value.count("{}") == len(node.args) - 1, f"{file}:{node.lineno}"
    assert seen > 40


def test_no_f_string_swallows_a_parameter() -> None:
    for file in FILES:
        if file == ROOT / "errors/wording.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                for name in ("Param", "Call", "Words"):
                    assert not list(calls(node, name)), f"{file}:{node.lineno}"


def modules(function: str) -> set[Path]:
    """Return the files that a public function can reach by imports."""
    todo = [ROOT / (elsa_cli._HOME[function].removeprefix("elsa_cli.").replace(".", "/") + ".py")]
    found: set[Path] = set()
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("elsa_cli."):
                assert node.module is not None
                base = ROOT.parent / node.module.replace(".", "/")
                for path in (base.with_suffix(".py"), base / "__init__.py"):
                    if path.exists():
                        todo.append(path)
    return found


# What a parameter is called by a text that does not spell it out in one place.
DYNAMIC = {
    "training/options.py": [f.name for f in fields(TrainOptions)],
    "training/resume.py": [f.name for f in fields(TrainOptions)],
    "selection/eligible.py": ["include", "exclude"],
    "core/settings.py": ["settings", "recipe_settings"],
}


def named(file: Path) -> list[Named]:
    """Return what the messages of a file name."""
    name = str(file.relative_to(ROOT))
    tree = ast.parse(file.read_text())
    found: list[Named] = []
    if name.startswith("errors/"):
        return found
    inside = {param for call in calls(tree, "Call") for param in calls(call, "Param")}
    for node in calls(tree, "Param"):
        if node in inside:
            continue
        first = node.args[0]
        off = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
        value = node.args[1].value if off else 1  # type: ignore[attr-defined]
        if isinstance(first, ast.Constant):
            found.append(Named(Param(str(first.value), value), name, node.lineno))
        else:
            found += [Named(Param(other, value), name, node.lineno) for other in DYNAMIC[name]]
    for node in calls(tree, "Call"):
        parts = [ast.literal_eval(param.args[0]) for param in calls(node, "Param")]
        assert isinstance(node.args[0], ast.Constant)
        call = Call(str(node.args[0].value), *(Param(part, True) for part in parts))
        found.append(Named(call, name, node.lineno))
    return found


def parameters(functions: list[str]) -> set[str]:
    """Return the parameters of public functions, with those of TrainOptions where one takes it."""
    found = {p for f in functions for p in inspect.signature(getattr(elsa_cli, f)).parameters}
    return found | ({f.name for f in fields(TrainOptions)} if "options" in found else set())


# What the walk over the imports finds, but cannot happen.
NEVER = {
    ("evaluate", "accumulate"): "named where `loss` runs out of memory; evaluate does not call it",
    ("evaluate", "precision"): "as accumulate",
    ("evaluate", "framework"): "named where torch is missing, which evaluate needs",
    ("evaluate", "resume"): "named where a process of several is lost; evaluate runs in one",
    ("evaluate", "recipe_settings"): "its recipe is set by `settings`",
    ("freeze-train", "freeze"): "TrainOptions does not check it, and a save of a command has True",
    ("freeze-train", "masks"): "masks are always placed automatically",
    ("freeze-train", "recipe_settings"): "its recipe is set by `settings`",
    ("freeze-train", "distribution"): "masks are chosen by the default rule",
    ("freeze-train", "group"): "masks are chosen by the default rule",
    ("freeze-train", "scope"): "masks are chosen by the default rule",
    ("pack", "masks"): "masks of an unpacked file are placed automatically, or as they were",
    ("sparsify", "accumulate"): "named where `loss` runs out of memory; sparsify does not call it",
    ("sparsify", "precision"): "as accumulate",
    ("sparsify", "resume"): "named where a process of several is lost; sparsify runs in one",
}


def test_each_parameter_that_a_message_names_has_an_option() -> None:
    """In every command that can reach the message, and in the public function as well."""
    lacking, seen = set(), 0
    for name, functions in COMMANDS.items():
        spell = Speller(cli, command(name))
        known = parameters(functions)
        for item in (n for f in sorted(set().union(*map(modules, functions))) for n in named(f)):
            said, where = spell(item.part), f"{name}: {item}"
            seen += 1
            if isinstance(item.part, Call):
                assert said.startswith(("`elsa ", "-")), where
                params = parameters([item.part.name])
                assert {param.name for param in item.part.params} <= params, where
            elif not said.startswith("-") or item.part.name not in known:
                lacking.add((name, item.part.name))
    assert seen > 100
    assert lacking == set(NEVER)


def test_every_public_function_is_run_by_a_command() -> None:
    functions = {n for n in elsa_cli.__all__ if inspect.isfunction(getattr(elsa_cli, n))}
    assert functions - {"load_level", "open_nested"} == {f for fs in COMMANDS.values() for f in fs}
    assert sorted(COMMANDS) == cli.list_commands(click.Context(cli))


# Options that only the command line has, and parameters that only Python has.
LINE_ONLY = {"as_json", "quiet", "debug", "verbose", "log", "log_every", "plot", "unpack"}
PYTHON_ONLY = {"checkpoint", "checkpoints", "progress", "watcher", "options", "freeze"}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_named_like_the_parameters(name: str) -> None:
    """So that a message finds them; a flag that turns something off is `no_` and its name."""
    options = {p.name or "" for p in command(name).params if isinstance(p, click.Option)}
    wanted = parameters(COMMANDS[name])
    assert {o.removeprefix("no_") for o in options} - LINE_ONLY == wanted - PYTHON_ONLY


@pytest.mark.parametrize(
    ("running", "part", "said"),
    [
        ("extract", Param("clobber", False), "--no-clobber"),
        ("extract", Param("force", True), "--force"),
        ("extract", Param("output"), "-o"),
        ("extract", Param("output", "out-{level} x"), "-o 'out-{level} x'"),
        ("sparsify", Param("masks", "tensors"), "--masks tensors"),
        ("sparsify", Param("exclude", ["a", "b*"]), "--exclude a --exclude 'b*'"),
        ("sparsify", Param("roles", ["NAME=weight"]), "--role NAME=weight"),
        ("sparsify", Param("settings", {"p": "1", "q": "x y"}), "--set p=1 --set 'q=x y'"),
        ("sparsify", Param("recipe_settings", {"p": "1"}), "--recipe-set p=1"),
        ("sparsify", Param("group_dims"), "--group-dim"),
        ("sparsify", Param("config", False), "--no-config"),
        ("freeze-train", Param("lr", (0.1, 0.2)), "--lr 0.1,0.2"),
        ("freeze-train", Param("joint_epochs", 0), "--joint-epochs 0"),
        ("freeze-train", Param("allow_nonfinite", True), "`elsa sparsify --allow-nonfinite`"),
        ("freeze-train", Call("sparsify", Param("allow_nonfinite", True)),
         "`elsa sparsify --allow-nonfinite`"),
        ("sparsify", Call("sparsify", Param("allow_nonfinite", True)), "--allow-nonfinite"),
        ("sparsify", Call("sparsify"), "`elsa sparsify`"),
        ("inspect", Call("extract", Param("level", "dense")), "`elsa extract --level dense`"),
        ("inspect", Call("freeze_train"), "`elsa freeze-train`"),
        ("inspect", Call("unpack"), "`elsa pack --unpack`"),
        ("pack", Call("unpack"), "--unpack"),
        ("inspect", Call("load_level"), "load_level()"),
        ("inspect", Param("framework", "numpy"), 'framework="numpy"'),
    ],
    ids=str,
)  # fmt: skip
def test_how_parameters_are_spelled(running: str, part: Param | Call, said: str) -> None:
    assert Speller(cli, command(running))(part) == said
    assert Words("a {} b", part).spelled(Speller(cli, command(running))) == f"a {said} b"


def test_without_a_command_another_one_is_named() -> None:
    assert Speller(cli, None)(Param("masks", "header")) == "`elsa sparsify --masks header`"


def test_an_option_that_is_renamed_is_renamed_in_messages() -> None:
    @click.command()
    @click.option("--keep-old", "no_clobber", is_flag=True)
    def other() -> None: ...

    assert Speller(cli, other)(Param("clobber", False)) == "--keep-old"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Param("clobber", False), "clobber=False"),
        (Param("lr"), "lr"),
        (Param("lr", (0.1, 2)), "lr=[0.1, 2]"),
        (Param("masks", 'a"b'), 'masks="a\\"b"'),
        (Param("settings", {"x": "é"}), 'settings={"x": "é"}'),
        (Param("init", None), "init=None"),
        (Call("sparsify"), "sparsify()"),
        (Call("f", Param("a", 1), Param("b", True)), "f(a=1, b=True)"),
    ],
    ids=str,
)
def test_how_python_spells_them(part: Param | Call, said: str) -> None:
    assert str(part) == said
    assert Words("{}", part) == said


def shout(part: Param | Call) -> str:
    return part.name.upper()


def test_words_are_a_text_with_fields() -> None:
    words = Words("use {}, {level} or {}; {}", Param("force", True), "{}", 3)
    assert words == "use force=True, {level} or {}; 3"
    assert words.spelled(shout) == "use FORCE, {level} or {}; 3"
    nested = Words("<{}>", words)
    assert nested.spelled(shout) == "<use FORCE, {level} or {}; 3>"
    assert ("a " + words + " b").spelled(shout) == "a use FORCE, {level} or {}; 3 b"
    for other in (copy.copy(words), copy.deepcopy(words)):
        assert other == words
        assert other.spelled(shout) == words.spelled(shout)
    with pytest.raises(ValueError, match="1 parts for 2 fields"):
        Words("{} {}", 1)


def test_an_error_says_both() -> None:
    error = OutputExists("is there", file="{}", hint=Words("leave out {}", Param("clobber", False)))
    assert str(error) == "{}: is there; leave out clobber=False"
    assert error.spelled(shout) == "{}: is there; leave out CLOBBER"
    assert error.renamed("x\ny").spelled(shout) == "x y: is there; leave out CLOBBER"
    assert ElsaError("plain").spelled(shout) == "plain"
