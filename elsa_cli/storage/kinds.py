"""Files of other kinds, known by their first bytes: what each is, and what to do with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from elsa_cli.storage.header import MAX_HEADER

__all__ = ["HEAD", "Kind", "foreign_kind"]

HEAD = 1 << 16  # bytes that are looked at; an index names its map behind its metadata

CONVERT = "convert it with safetensors first (torch.load, then safetensors.torch.save_file)"
UNPACK = "unpack it, and name the safetensors file that was in it"
SAVE = "save the weights as safetensors first"
FETCH = "fetch the file again, and look at what the server says"


@dataclass(frozen=True)
class Kind:
    """A kind of file that is no safetensors file.

    Attributes:
        name: What it is, behind `is`: `a zip archive`.
        advice: What to do; `{folder}` in it stands for the folder of the file.
        start: A regular expression for its first bytes.
    """

    name: str
    advice: str
    start: re.Pattern[bytes]


def _kind(start: bytes, name: str, advice: str) -> Kind:
    return Kind(name, advice, re.compile(start, re.DOTALL))


TEXT = rb"(?:\xef\xbb\xbf)?\s*"
ZIP = rb"PK\x03\x04.{26}"  # what follows is the name of the first member

# The first that fits counts, so the special ones come before the general ones.
KINDS = (
    _kind(
        rb"version https?://(?:git-lfs|hawser)\.github\.com/|version http://git-media\.io/",
        "a Git LFS pointer, not the weights",
        "fetch them with `git lfs pull`",
    ),
    _kind(
        rb"/annex/objects/|\.git/annex/objects/",
        "a git-annex pointer, not the weights",
        "fetch them with `git annex get`",
    ),
    _kind(
        TEXT + rb"(?:<!--.*?-->\s*)?(?i:<!doctype html|<html|<head|<body)",
        "a web page (HTML), perhaps a saved error or login page",
        FETCH,
    ),
    _kind(TEXT + rb"<\?xml|" + TEXT + rb"<Error>", "XML, perhaps a saved error page", FETCH),
    _kind(ZIP + rb"[^\0]{0,200}?\.npy", "a NumPy archive (.npz)", SAVE),
    _kind(
        ZIP + rb"[^\0/]{0,200}/(?:data\.pkl|version|byteorder|\.format_version|\.data/)",
        "a zip archive of torch.save (.pt, .pth, .bin)",
        CONVERT,
    ),
    _kind(
        rb"PK(?:\x03\x04|\x05\x06|\x07\x08)",
        "a zip archive, as torch.save writes (.pt, .pth, .bin)",
        CONVERT,
    ),
    # Protocol 2 and the magic number that torch.save put first until version 1.6.
    _kind(rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", "a legacy pickle of torch.save", CONVERT),
    _kind(rb"\x80[\x02-\x05][\x80-\xff}\](cX\x8c\x95K]", "a Python pickle", CONVERT),
    _kind(rb"\x1f\x8b", "compressed with gzip", UNPACK),
    _kind(rb"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    _kind(rb"\xfd7zXZ\0", "compressed with xz", UNPACK),
    _kind(rb"BZh[1-9]1AY&SY", "compressed with bzip2", UNPACK),
    _kind(rb"\x04\x22\x4d\x18", "compressed with lz4", UNPACK),
    _kind(rb"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    _kind(rb"Rar!\x1a\x07", "a RAR archive", UNPACK),
    _kind(rb".{257}ustar", "a tar archive", UNPACK),
    _kind(rb"GGUF", "a GGUF file", "use the safetensors checkpoint that it was converted from"),
    _kind(
        rb"(?:lmgg|fmgg|tjgg|algg)",
        "a GGML file",
        "use the safetensors checkpoint that it was converted from",
    ),
    _kind(rb"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5)", SAVE),
    _kind(rb"\x93NUMPY", "a NumPy array (.npy)", SAVE),
    # ir_version, then the name of the producer, the domain, the graph or the operator set.
    _kind(
        rb"\x08[\x01-\x20](?:\x12[\x00-\x40][ -~]*[\x1a\x22\x28\x32\x3a\x42]|\x3a|\x42.\x0a)",
        "an ONNX model",
        "use the safetensors checkpoint that it was exported from",
    ),
    _kind(
        rb".{4}TFL3",
        "a TFLite model",
        "use the safetensors checkpoint that it was converted from",
    ),
    _kind(rb"PAR1", "a Parquet file", "name the safetensors file"),
    _kind(rb"%PDF-", "a PDF document", "name the safetensors file"),
    _kind(
        TEXT + rb'\{.*"weight_map"\s*:',
        "the index of a checkpoint in shards (JSON), not the weights",
        "its shards lie in {folder}: name one of them",
    ),
    _kind(
        TEXT + rb"(?:\{\s*[\"}]|\[\s*[\[\]{\"0-9tfn-])",
        "JSON, such as a config, not the weights",
        "name the safetensors file",
    ),
)


def foreign_kind(head: bytes) -> Kind | None:
    """Tell what else a file is; None for what begins as a safetensors file does, or is unknown.

    Args:
        head: Its first bytes, up to `HEAD`. Eight tell most kinds, 512 all but an index from other
            JSON.
    """
    # A length of header that is legal, and the brace that begins it: no other kind has both.
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and length <= MAX_HEADER and head[8:].lstrip(b" \t\r\n")[:1] == b"{":
        return None
    return next((kind for kind in KINDS if kind.start.match(head)), None)
