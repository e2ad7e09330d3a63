"""The decoder: a small causal transformer that attends to patch tokens, and its stored form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.lab.lit.words import PAD

LEAST_LAYERS, MOST_LAYERS = 2, 6


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder.

    Attributes:
        layers: transformer layers, 2 to 6.
        width: width of the text's tokens.
        heads: attention heads; must divide `width`.
        max_length: longest text in tokens, its prefix included.
        dropout: share of activations dropped in training.
    """

    layers: int = 2
    width: int = 96
    heads: int = 4
    max_length: int = 48
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not LEAST_LAYERS <= self.layers <= MOST_LAYERS:
            raise AcedError(f"The decoder has {LEAST_LAYERS} to {MOST_LAYERS} layers, not {self.layers}.")
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise AcedError(
                f"A decoder's width of {self.width} cannot be shared by {self.heads} heads; use a multiple."
            )


class TextDecoder(nn.Module):
    """Writes text about an image from its patch tokens; torch's own decoder layers, pre-norm.

    Args:
        shape: the sizes.
        vocabulary: number of ids.
        memory_width: W of the patch tokens; 0 for a blind decoder, which attends to one learned vector instead.
    """

    def __init__(self, shape: DecoderShape, vocabulary: int, memory_width: int) -> None:
        super().__init__()
        width = shape.width
        self.shape, self.memory_width = shape, memory_width
        self.words = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.positions = nn.Parameter(torch.empty(shape.max_length, width))
        layer = nn.TransformerDecoderLayer(
            width, shape.heads, 4 * width, shape.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerDecoder(layer, shape.layers, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary)
        if memory_width:
            # Encoders differ in the scale of their tokens; the decoder must not.
            self.sight: nn.Module = nn.Sequential(nn.LayerNorm(memory_width), nn.Linear(memory_width, width))
        else:
            self.nothing = nn.Parameter(torch.empty(1, 1, width))
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.startswith("blocks") and parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name in ("positions", "nothing", "words.weight", "head.weight"):
                nn.init.normal_(parameter, std=0.02 if name == "head.weight" else 0.1)
        with torch.no_grad():
            self.words.weight[PAD] = 0

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that do not decay, in the form of timm's models."""
        return {"positions", "nothing"}

    def memory(self, tokens: Tensor | None, n: int) -> Tensor:
        """Patch tokens `[n, T, W]` (None for a blind decoder) to the attended memory, `[n, T', width]`."""
        if self.memory_width == 0:
            return self.nothing.expand(n, 1, -1)
        if tokens is None:
            raise ValueError("TextDecoder.memory: this decoder needs patch tokens.")
        return self.sight(tokens)

    def forward(self, ids: Tensor, memory: Tensor) -> Tensor:
        """Ids `[n, L]`, padded on the right, and memory `[n, T, width]` to logits of each next id, `[n, L, V]`."""
        return self.head(self._states(ids, memory))

    def next_logits(self, ids: Tensor, memory: Tensor) -> Tensor:
        """Logits `[n, V]` of the id that follows `ids` `[n, L]`, which have no padding."""
        return self.head(self._states(ids, memory)[:, -1])

    def _states(self, ids: Tensor, memory: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.words(ids) + self.positions[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=ids.device)
        return self.blocks(x, memory, tgt_mask=mask, tgt_is_causal=True)


def make_decoder(shape: DecoderShape, vocabulary: int, memory_width: int, seed: int) -> TextDecoder:
    """A decoder with initial weights drawn from a seed; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextDecoder(shape, vocabulary, memory_width)


def describe(decoder: TextDecoder) -> dict[str, Any]:
    """Its sizes, in the form of `decoder.json`."""
    shape = decoder.shape
    sizes = {"layers": shape.layers, "width": shape.width, "heads": shape.heads, "max_length": shape.max_length}
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    return {**sizes, "dropout": shape.dropout, "memory_width": decoder.memory_width, "parameters": parameters}
