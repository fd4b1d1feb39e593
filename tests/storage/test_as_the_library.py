"""Headers in every spelling: what the stock library loads, we read, with the same content.

Where we are stricter on purpose is listed in `STRICTER`, and in docs/checkpoints.md.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from elsa_cli.checkpoint.opening import open_plain
from elsa_cli.errors import DuplicateName, MalformedFile
from elsa_cli.storage.container import Container
from tests.helpers import BITS, nbytes, write_raw

ROOT = Path(__file__).resolve().parents[2]
DATA = bytes(range(8))
ONE = '"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}'
EMPTY = '"dtype":"F32","shape":[0],"data_offsets":[8,8]'


def entry(text: str) -> str:
    return '{"a":' + text + "}"


# What the library loads and we refuse: a reader of another kind might see other content.
STRICTER = {
    "a tensor twice": "{" + ONE + "," + ONE + "}",
    "a metadata key twice": '{"__metadata__":{"k":"1","k":"2"},' + ONE + "}",
}

SPELLINGS = [
    "{" + ONE + "}",
    " {" + ONE + "}",
    "\t\r\n {" + ONE + "}\n\r\t ",
    " " * 5000 + "{" + ONE + "}" + " " * 5000,
    *("{" + ONE + "}" + end for end in ("\0", "\x0b", "\x0c", "\xa0", "}", ",", "x", "//", " {}")),
    *(start + "{" + ONE + "}" for start in ("\ufeff", "\xa0", "\x0b", "\0", "/**/", ",")),
    *('{"__metadata__":' + value + "," + ONE + "}" for value in (
        "null", "{}", '{"":""}', '{"k":null}', '{"k":1}', "[]", '""', "1", "false",
        '{"k":"\\u0000\\/\\b\\ud83d\\ude00é"}', '{"k":"\\ud800"}', '{"\\udc00":""}', '{"k":"\x7f"}',
        '{"k":"\x01"}', '{"k":"\\x"}', '{"k":"1"},"__metadata__":{}',
    )),
    "{" + ONE + ',"__metadata__":null}',
    "{" + ONE + ',"b":{' + EMPTY + "}}",
    "{" + ONE + ',"b":{' + EMPTY.replace("8,8", "0,0") + "}}",
    "{" + ONE + ',"b":{' + EMPTY.replace("8,8", "4,4") + "}}",
    *("{" + ONE + f',"b":{value}' + "}" for value in ("null", "1", "{}", "[]", '"U8"')),
    *("{" + ONE + f',"{name}":{{' + EMPTY + "}}" for name in (
        "", " ", "\\u0000", "\\ud83d\\ude00", "\\ud83d", "é", "b\\n", "b\t", "__metadata", "elsa",
        "elsa.weight", "elsa.mask.0",
    )),
    *("{" + ONE + ',"b":{' + EMPTY.replace("[0]", shape) + "}}" for shape in (
        "[0,0]", "[3,0,5]", "[0,18446744073709551615]", "[0,18446744073709551616]", "[1,-0,0]",
        "[0,9223372036854775807,2]", "[]", "[[]]", "0", "[0.0]", "[0e0]", "[00]", "[+0]", '["0"]',
        "[null]", "[true,0]", "[-1,0]", "[0,]", "[ 0 , 1 ]",
    )),
    *(entry(text) for text in (
        '{"data_offsets":[0,8],"shape":[8],"dtype":"U8"}',
        '{"\\u0064type":"\\u00558","shape":[ 2 ,\n4 ],"data_offsets":[0,8]}',
        '["U8",[8],[0,8]]', '["U8",[8],[0,8],1]', '["U8",[8]]', "[]", "{}", "null",
        '{"dtype":{"U8":null},"shape":[8],"data_offsets":[0,8]}',
        '{"dtype":{"U8":[]},"shape":[8],"data_offsets":[0,8]}',
        '{"dtype":{"U8":null,"I8":null},"shape":[8],"data_offsets":[0,8]}',
        '{"dtype":{},"shape":[8],"data_offsets":[0,8]}',
        '{"dtype":["U8"],"shape":[8],"data_offsets":[0,8]}',
        '{"dtype":4,"shape":[8],"data_offsets":[0,8]}',
        '{"dtype":"u8","shape":[8],"data_offsets":[0,8]}',
        '{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}',
        '{"dtype":"U8","shape":[8],"data_offsets":[-0,8]}',
        '{"dtype":"U8","shape":[8],"data_offsets":[0,8.0]}',
        '{"dtype":"U8","shape":[8],"data_offsets":[0,8,9]}',
        '{"dtype":"U8","shape":[8],"data_offsets":{"0":0,"1":8}}',
        '{"dtype":"U8","shape":[8],"data_offsets":"0,8"}',
        '{"dtype":"U8","shape":[8],"data_offsets":[0,8],}',
        '{"dtype":"U8","shape":[8]}',
        '{"dtype":"F4","shape":[16],"data_offsets":[0,8]}',
        '{"dtype":"F4","shape":[2,8],"data_offsets":[0,8]}',
        '{"dtype":"F4","shape":[15],"data_offsets":[0,8]}',
        '{"dtype":"F64","shape":[],"data_offsets":[0,8]}',
        '{"dtype":"F64","shape":[1,1,1],"data_offsets":[0,8]}',
    )),
    *(entry('{"dtype":"U8","shape":[8],"data_offsets":[0,8],"more":' + value + "}") for value in (
        "1", "-0", "1.5e3", "-0.0e-5", "1e400", "9" * 100, "9" * 400, "NaN", "Infinity",
        "-Infinity",
        "null", "true", '"x"', '"\\ud800"', '"\x7f"', '"\x1f"', '"\\q"', "{}", '{"a":1,"a":2}',
        '{"__metadata__":{}}', "[" * 100 + "]" * 100, "[" * 120 + "]" * 120, "01", "1.", ".5",
        "'x'",
        '1,"more":2', '1,"shape":[8]', '"","":0',
    )),
]  # fmt: skip


def lib(path: Path) -> Any:
    """Return what the library loads, or None."""
    try:
        with safe_open(path, "np") as file:
            tensors = {
                name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
                for name in file.keys()  # noqa: SIM118 - it is no dict
            }
            return tensors, file.metadata() or {}
    except (SafetensorError, OverflowError):
        return None


def ours(path: Path) -> Any:
    """Return what we read, or None."""
    try:
        with Container(path) as file:
            return {t.name: (t.dtype.name, t.shape) for t in file.tensors}, file.metadata
    except MalformedFile:
        return None


@pytest.mark.parametrize("header", SPELLINGS, ids=range(len(SPELLINGS)))
def test_one_spelling(header: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", header.encode("utf-8", "surrogatepass"), DATA)
    assert ours(path) == lib(path)


def test_the_spellings_are_of_both_kinds(tmp_path: Path) -> None:
    read = [
        lib(write_raw(tmp_path / "m", header.encode("utf-8", "surrogatepass"), DATA)) is not None
        for header in SPELLINGS
    ]
    assert sum(read) > 50
    assert len(read) - sum(read) > 50


@pytest.mark.parametrize("case", STRICTER)
def test_where_we_are_stricter(case: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", STRICTER[case].encode(), DATA)
    assert lib(path) is not None
    with pytest.raises(DuplicateName):
        Container(path)
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    assert case in re.sub(r"\s+", " ", text)


def spelled(rng: random.Random, value: Any) -> str:
    """Return some legal JSON of a value: white space, escapes and order as they come."""

    def space() -> str:
        return "".join(rng.choice(" \t\r\n") for _ in range(rng.choice((0, 0, 0, 1, 3))))

    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        inner = ",".join(f"{space()}{spelled(rng, k)}{space()}:{spelled(rng, v)}" for k, v in items)
        return f"{space()}{{{inner}{space()}}}{space()}"
    if isinstance(value, list):
        return f"{space()}[{','.join(spelled(rng, v) for v in value)}{space()}]{space()}"
    if isinstance(value, str) and rng.random() < 0.3:
        units = value.encode("utf-16-be")
        return '"' + "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)) + '"'
    return space() + json.dumps(value, ensure_ascii=rng.random() < 0.5) + space()


def networks(rng: random.Random) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield headers of any tensors that tile their data, and the bytes of that."""
    while True:
        header: dict[str, Any] = {}
        at = 0
        for _ in range(rng.randrange(6)):
            dtype = rng.choice(list(BITS))
            shape = [rng.choice((0, 1, 2, 4, 8)) for _ in range(rng.randrange(4))]
            if BITS[dtype] % 8:
                shape.append(8)
            size = nbytes(dtype, shape)
            name = rng.choice(["a", "é", "😀", "elsa.", "\0", " "]) + str(rng.randrange(99))
            if name in header:
                continue
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        yield header, at


def changes(rng: random.Random) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Yield harmless and harmful changes of a header."""
    keep: list[Callable[[dict[str, Any]], Any]] = [
        lambda h: None,
        lambda h: h.update(__metadata__=None),
        lambda h: h.update(__metadata__={"k": rng.choice(["", "x", "é", "\0"])}),
        lambda h: h.update(__metadata__={"k": rng.choice([1, None, [], {}])}),
        lambda h: [t.update(note={"any": [1, None, "x"]}) for t in h.values()],
        lambda h: [t.pop(rng.choice(list(t))) for t in h.values()],
        lambda h: [t["shape"].append(1) for t in h.values()],
        lambda h: [t["shape"].append(rng.choice([-1, 1.0, "1", None, True])) for t in h.values()],
        lambda h: [t.update(data_offsets=[x + 1 for x in t["data_offsets"]]) for t in h.values()],
    ]
    while True:
        yield rng.choice(keep)


def test_many_headers(tmp_path: Path) -> None:
    rng = random.Random(0)
    read = 0
    for (header, size), change, number in zip(
        networks(rng), changes(rng), range(1500), strict=False
    ):
        change(header)
        text = spelled(rng, header)
        path = write_raw(tmp_path / "m", text.encode(), bytes(size))
        found = lib(path)
        assert ours(path) == found, (number, text)
        if found is not None:
            read += 1
            open_plain(path).close()
    assert 500 < read < 1400
