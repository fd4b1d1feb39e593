from __future__ import annotations

import errno
import inspect
import re

import pytest

from elsa_cli import errors
from elsa_cli.errors import ElsaError, Interrupted, Misfit


def classes() -> dict[str, type[ElsaError]]:
    """Return the exceptions that the module defines."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, ElsaError)
    }


def drawn() -> dict[str, tuple[str | None, str]]:
    """Return parent and text of each line of the tree in the module's docstring."""
    found: dict[str, tuple[str | None, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)  +(.+)", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            found[match[2]] = (path[depth - 1] if depth else None, match[3])
    return found


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    real = {
        name: None if cls is ElsaError else cls.__bases__[0].__name__
        for name, cls in classes().items()
    }
    assert {name: parent for name, (parent, _) in drawn().items()} == real
    assert len(real) > 20


def test_the_branches_are_drawn_to_the_end() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if re.match("[│├└ ]+── ", line)]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        depth = line.index("──") - 1
        last = following[depth : depth + 1] not in ("├", "└", "│")
        assert line[depth] == ("└" if last else "├"), line


def test_all_is_complete() -> None:
    assert sorted(errors.__all__) == sorted([*classes(), "Call", "Param", "Words"])


def test_each_exception_is_documented() -> None:
    for name, cls in classes().items():
        assert cls.__doc__, name
        text = drawn()[name][1].removeprefix("exit 2: ")
        said = cls.__doc__.split("\n")[0].rstrip(".").replace("`", "")
        if not text.startswith("exit "):
            assert said.lower() == text.replace("`", "").lower()


def test_exit_codes() -> None:
    codes = {name: cls("").exit_code for name, cls in classes().items()}
    assert {name: code for name, code in codes.items() if code != 1} == {
        "UsageError": 2,
        "Interrupted": 130,
    }
    assert Interrupted("", 15).exit_code == 143


def test_another_name_for_the_file() -> None:
    error = Misfit("is bad", [("a", "b")], file="/dev/fd/3", hint="fix it")
    other = error.renamed("standard input")
    assert type(other) is Misfit
    assert str(other) == "standard input: is bad; fix it"
    assert (other.pairs, other.file) == ((("a", "b"),), "standard input")
    assert error.file == "/dev/fd/3"


def test_a_message_says_where_what_and_what_to_do() -> None:
    error = ElsaError("is bad", file="m.safetensors", tensor="w", hint="fix it")
    assert str(error) == "m.safetensors: w: is bad; fix it"
    assert (error.what, error.file, error.tensor, error.hint) == (
        "is bad",
        "m.safetensors",
        "w",
        "fix it",
    )
    assert str(ElsaError("is bad")) == "is bad"
    assert str(ElsaError("is bad", tensor="w")) == "w: is bad"


@pytest.mark.parametrize(
    "odd", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]
)
def test_a_message_is_one_line_whatever_the_names(odd: str) -> None:
    error = ElsaError(f"a{odd}b", file=f"f{odd}g", tensor=f"t{odd}u", hint=f"h{odd}i")
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("odd", ["\x1b[31m", "\x07", "\x00", "\x9b2J"])
def test_a_name_from_a_file_cannot_steer_the_terminal(odd: str) -> None:
    message = str(ElsaError("is bad", tensor=f"t{odd}u"))
    assert all(c.isprintable() for c in message)


KINDS = {
    "UsageError": ValueError,
    "MissingPackage": ImportError,
    "MissingFile": FileNotFoundError,
    "MalformedFile": ValueError,
    "LevelNotStored": LookupError,
    "OutputExists": FileExistsError,
    "PeerLost": ConnectionError,
    "PeerSilent": TimeoutError,
}


def test_built_in_kinds_catch_them_and_the_line_stays() -> None:
    direct = {name: cls.__bases__[1:] for name, cls in classes().items() if cls.__bases__[1:]}
    assert direct == {name: (kind,) for name, kind in KINDS.items()}
    for name, kind in KINDS.items():
        with pytest.raises(kind) as caught:
            raise classes()[name]("is bad", file="f", hint="fix it")
        assert str(caught.value) == "f: is bad; fix it"
    missing = errors.MissingFile("does not exist", file="f")
    assert (missing.errno, missing.filename) == (errno.ENOENT, "f")
    there = errors.OutputExists("exists", file="f").renamed("g")
    assert (there.errno, there.filename, str(there)) == (errno.EEXIST, "g", "g: exists")


def test_the_docstring_names_the_built_in_kinds() -> None:
    text = (errors.__doc__ or "").partition("The built-in kinds")[2].partition("\n\n")[0]
    assert set(re.findall(r"\b[A-Z]\w+", text)) - {k.__name__ for k in KINDS.values()} - {
        "ValueErrors"
    } == set(KINDS)
