"""The two networks whose training steps are timed, and a batch for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SUBJECTS", "Batch", "ResNet", "Subject", "Transformer", "prunable"]

Batch = tuple[Tensor, Tensor]

CLASSES = 10
SIDE = 32
VOCABULARY = 256


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, around a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        """Create the layers; `inside` and `outside` are channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 as it is used for 32x32 images: a 3x3 stem and no pooling behind it."""

    def __init__(self, width: int) -> None:
        """Create the layers; `width` is the channels of the stem, and doubles three times."""
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks = []
        inside = width
        for stage in range(4):
            outside = width << stage
            blocks += [Block(inside, outside, 2 if stage else 1), Block(outside, outside, 1)]
            inside = outside
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inside, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Classify [N, 3, 32, 32]: logits, [N, 10]."""
        x = self.blocks(F.relu(self.bn(self.conv(images)))).mean((2, 3))
        logits: Tensor = self.fc(x)
        return logits


class Layer(nn.Module):
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
        """Apply the layer to [N, T, width]."""
        split = self.qkv(self.ln1(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(seen.transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(self.ln2(x))))
        return x


class Transformer(nn.Module):
    """A decoder that predicts the next token."""

    def __init__(self, width: int, layers: int, context: int) -> None:
        """Create the layers; `context` is the length of what is learned from."""
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, width)
        self.wpe = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Layer(width, max(1, width // 64)) for _ in range(layers)))
        self.ln = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the token after each of [N, T]: logits, [N, 256, T]."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        logits: Tensor = self.lm_head(self.ln(self.layers(x)))
        return logits.transpose(1, 2)


def prunable(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose `weight` is masked, by name: all but embeddings and lm_head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name != "lm_head"
    }


@dataclass(frozen=True)
class Subject:
    """A network and what a step of it learns from.

    Attributes:
        name: For the page.
        model: Creates it; told whether a tiny one will do.
        batch: Creates a batch, told whether a tiny one will do and how many examples it has.
        examples: Examples of a batch on a CPU.
        many: Examples of a batch on a GPU.
        words: What a batch is, for the page.
    """

    name: str
    model: Callable[[bool], nn.Module]
    batch: Callable[[bool, int], Batch]
    examples: int
    many: int
    words: str


def _images(quick: bool, count: int) -> Batch:
    side = SIDE // 2 if quick else SIDE
    return torch.randn(count, 3, side, side), torch.randint(CLASSES, (count,))


def _context(quick: bool) -> int:
    return 16 if quick else 128


def _tokens(quick: bool, count: int) -> Batch:
    text = torch.randint(VOCABULARY, (count, _context(quick) + 1))
    return text[:, :-1], text[:, 1:]


SUBJECTS = (
    Subject(
        "ResNet-18",
        lambda quick: ResNet(8 if quick else 64),
        _images,
        examples=16,
        many=512,
        words="images of 32 × 32",
    ),
    Subject(
        "transformer",
        lambda quick: (
            Transformer(64, 2, _context(quick)) if quick else Transformer(384, 6, _context(quick))
        ),
        _tokens,
        examples=8,
        many=128,
        words="sequences of 128 tokens",
    ),
)
