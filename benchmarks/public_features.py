"""What frozen trunks gave for a picture or a text, kept in files, so that several references on them compute it once.

A row is found by a hash of what went in, so pictures of another size or texts of another tokenizer are other rows.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from public_weights import CONTEXT, parts_of
from safetensors.torch import load_file
from torch import Tensor

from aced.files.atomic import save_tensors_atomic
from aced.models import Tower
from aced.models.modes import evaluating

_AT_ONCE = 8
"""Pictures: more have activations that a processor's cache does not hold."""
_TEXTS_AT_ONCE = 64
_HASH = 16
_KEPT_EVERY = 1024
"""Rows after which the file is written, so that little is lost where a process is ended."""


class Memory:
    """Rows of one trunk.

    Args:
        path: a file that `save` writes; where it is there already, it is gone on with.

    Attributes:
        seconds, timed: processor seconds of computing rows, and how many rows these were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[bytes, Tensor] = {}
        self.seconds, self.timed, self._unsaved = 0.0, 0, 0
        if path.is_file():
            found = load_file(path)
            self._rows = {bytes(key): row for key, row in zip(found["keys"].numpy(), found["rows"], strict=True)}
            self.seconds, self.timed = float(found["spent"][0]), int(found["spent"][1])

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, given: Tensor, compute: Callable[[Tensor], Tensor], at_once: int) -> Tensor:
        """`[n, F]` rows of what went in, `[n, ...]`; those that are missing are computed, `at_once` at a time."""
        whole = given.contiguous()
        keys = [hashlib.blake2b(one.numpy().tobytes(), digest_size=_HASH).digest() for one in whole]
        missing = [i for i, key in enumerate(keys) if key not in self._rows]
        for start in range(0, len(missing), at_once):
            some = missing[start : start + at_once]
            began = time.process_time()
            made = compute(whole[some])
            self.seconds += time.process_time() - began
            self.timed += len(some)
            self._rows.update(zip([keys[i] for i in some], made.clone(), strict=True))
            self._unsaved += len(some)
            if self._unsaved >= _KEPT_EVERY:
                self.save()
        return torch.stack([self._rows[key] for key in keys])

    def save(self) -> None:
        """Write the file, where there is anything new."""
        if self._unsaved:
            self._unsaved = 0
            keys = torch.frombuffer(bytearray(b"".join(self._rows)), dtype=torch.uint8).reshape(-1, _HASH)
            spent = torch.tensor([self.seconds, float(self.timed)], dtype=torch.float64)
            save_tensors_atomic(
                self._path, {"keys": keys, "rows": torch.stack(list(self._rows.values())), "spent": spent}
            )


@contextmanager
def remembering(tower: Tower, images: str, texts: str, folder: Path) -> Iterator[dict[str, Memory]]:
    """Let the trunks of a tower of `public_tower` look up what they have computed before; by name, what they know.

    The tower's modules and weights stay as they are. Only what is embedded without gradient is right.

    Args:
        tower: the tower.
        images, texts: what it was made of.
        folder: of the files, which are written at the end.
    """
    model: Any = tower.model
    text = model.text
    memories = {name: Memory(folder / f"{name}.safetensors") for name in (*dict(parts_of(images, model.visual)), texts)}

    def looked_up(name: str, inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda pixels: memories[name].of(pixels, inner, _AT_ONCE)

    def pooled(ids: Tensor) -> Tensor:
        mask = (ids != text.config.pad_token_id).long()
        mask = mask[:, : int(mask.sum(dim=1).max())]  # what is masked changes nothing and costs its share
        return text.pooler(text.transformer(input_ids=ids[:, : mask.shape[1]], attention_mask=mask), mask)

    changed = [(part, looked_up(name, part.forward)) for name, part in parts_of(images, model.visual)]

    def encoded(ids: Tensor) -> Tensor:
        whole = F.pad(ids, (0, CONTEXT - ids.shape[1]), value=text.config.pad_token_id)  # one key in every batch
        return text.proj(memories[texts].of(whole, pooled, _TEXTS_AT_ONCE))

    changed.append((text, encoded))
    try:
        for module, forward in changed:
            module.forward = forward
        with evaluating(tower), torch.no_grad():
            yield memories
    finally:
        for module, _ in changed:
            del module.forward
        for memory in memories.values():
            memory.save()
