"""Every error the tool reports, with its exit code.

ElsaError                       exit 1
├── UsageError                  exit 2: arguments that contradict or cannot be read
├── MissingPackage              an optional package that is not installed
├── InputError                  a file that cannot be used
│   ├── MissingFile             a file that does not exist
│   ├── MalformedFile           not a legal safetensors file
│   │   ├── OtherFormat         a file of another kind: a zip archive, a web page, GGUF
│   │   ├── TruncatedFile       the file ends before its header or its data does
│   │   ├── HeaderTooLong       more than 100,000,000 bytes of header
│   │   ├── HeaderNotJson       the header is not a JSON object of the right form
│   │   ├── DuplicateName       one name stands twice in the header
│   │   ├── HoleInData          bytes that no tensor owns
│   │   ├── OverlappingTensors  bytes that two tensors own
│   │   ├── OffsetOutOfRange    data_offsets that are negative or run backwards
│   │   ├── ShapeMismatch       the bytes of a tensor are not what its shape and dtype need
│   │   ├── UnknownDtype        a dtype that safetensors does not have
│   │   └── TrailingBytes       bytes after the last tensor
│   ├── NotNested               a plain checkpoint where a nested or packed one is needed
│   ├── AlreadyNested           a nested checkpoint where a plain one is needed
│   ├── UnknownVersion          written by a later version of the format
│   ├── BadManifest             the manifest or the masks contradict the file
│   ├── LevelNotStored          a level that the file does not hold
│   ├── CutFile                 a packed file that ends before the level asked for
│   ├── NonFinite               NaN or infinity among the weights to rank
│   ├── Quantised               weights in a format that has to be dequantised first
│   ├── NotABundle              checkpoints that are not levels of one dense network
│   └── Misfit                  a checkpoint and a model that do not have the same tensors
├── OutputError                 a file that cannot be written
│   ├── OutputExists            the output exists, and clobber=False forbids replacing it
│   └── DiskFull                not enough space for the output
├── TrainingError               a training that cannot continue
│   ├── RecipeError             the recipe lacks something, or raised
│   ├── NonFiniteLoss           the loss or a weight became NaN or infinite
│   ├── FrozenChanged           a frozen weight is not what it was
│   ├── NoGradient              a phase trained nothing, because its weights got no gradient
│   ├── PeerLost                another process of the run has ended
│   ├── PeerSilent              another process of the run did not answer in time
│   └── Interrupted             exit 128 + the signal: a signal ended the run
├── NothingToDo                 the run would change nothing
└── VerificationFailed          `verify` found something wrong

The built-in kinds catch these too: UsageError and MalformedFile are ValueErrors,
MissingPackage is an ImportError, MissingFile a FileNotFoundError, LevelNotStored a LookupError,
OutputExists a FileExistsError, PeerLost a ConnectionError and PeerSilent a TimeoutError.

A message is one line: where (file, tensor), what is wrong, what to do. It names the parameters of
the Python functions, never the options of the command line: see `wording`.
"""

from __future__ import annotations

from elsa_cli.errors.base import (
    ElsaError,
    MissingPackage,
    NothingToDo,
    UsageError,
    VerificationFailed,
)
from elsa_cli.errors.files import (
    AlreadyNested,
    BadManifest,
    CutFile,
    DiskFull,
    DuplicateName,
    HeaderNotJson,
    HeaderTooLong,
    HoleInData,
    InputError,
    LevelNotStored,
    MalformedFile,
    Misfit,
    MissingFile,
    NonFinite,
    NotABundle,
    NotNested,
    OffsetOutOfRange,
    OtherFormat,
    OutputError,
    OutputExists,
    OverlappingTensors,
    Quantised,
    ShapeMismatch,
    TrailingBytes,
    TruncatedFile,
    UnknownDtype,
    UnknownVersion,
)
from elsa_cli.errors.running import (
    FrozenChanged,
    Interrupted,
    NoGradient,
    NonFiniteLoss,
    PeerLost,
    PeerSilent,
    RecipeError,
    TrainingError,
)
from elsa_cli.errors.wording import Call, Param, Words

__all__ = [
    "AlreadyNested",
    "BadManifest",
    "Call",
    "CutFile",
    "DiskFull",
    "DuplicateName",
    "ElsaError",
    "FrozenChanged",
    "HeaderNotJson",
    "HeaderTooLong",
    "HoleInData",
    "InputError",
    "Interrupted",
    "LevelNotStored",
    "MalformedFile",
    "Misfit",
    "MissingFile",
    "MissingPackage",
    "NoGradient",
    "NonFinite",
    "NonFiniteLoss",
    "NotABundle",
    "NotNested",
    "NothingToDo",
    "OffsetOutOfRange",
    "OtherFormat",
    "OutputError",
    "OutputExists",
    "OverlappingTensors",
    "Param",
    "PeerLost",
    "PeerSilent",
    "Quantised",
    "RecipeError",
    "ShapeMismatch",
    "TrailingBytes",
    "TrainingError",
    "TruncatedFile",
    "UnknownDtype",
    "UnknownVersion",
    "UsageError",
    "VerificationFailed",
    "Words",
]
