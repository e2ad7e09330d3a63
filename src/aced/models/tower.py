"""`Tower`: one interface over every open_clip model, from raw pixels and captions to embeddings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aced.core.embeddings import Embeddings, Scalar
from aced.errors import AcedError
from aced.models import text
from aced.models.architecture import architecture, computation, mark_of
from aced.models.at_once import images_at_once
from aced.models.coarse import PartlyCoarse
from aced.models.flops import Flops, count_image, count_text
from aced.models.ids import TokenIds, lengths_of, padded
from aced.models.modes import evaluating
from aced.models.tokenizers import Tokenizer, tokenizer_identity
from aced.pool.source import Candidates
from aced.pool.views import View


class Tower(nn.Module):
    """An open_clip model with its own preprocessing and tokenizer.

    Attributes:
        name: the model as requested.
        model: the open_clip model; its state dict is what open_clip saves and loads.
        config: the open_clip model config that it was built from.
        preprocess: open_clip's preprocessing config (size, mean, std, interpolation, resize_mode).
        view: the geometric half of the preprocessing, done by the reader of the images.
        tokenizer: texts to `[B, context_length]` ids.
        context_length: longest text in tokens.
        width: d, the dimension of the embeddings.
        partly: how training images marked in `Candidates.coarse` are processed; None: like all others.
        text_model: the `config.json` of a Hugging Face text tower; None for open_clip's own.
        notes: sentences about the model's origin that a user should read.
        fixed: parts of the model that are not trained, and stay in evaluation mode (`lock`).
        behind: the share of the image's and of the text's forward pass that gradients pass back through.
    """

    mean: Tensor
    std: Tensor
    partly: PartlyCoarse | None = None
    text_model: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    fixed: Sequence[nn.Module] = ()
    behind: tuple[float, float] = (1.0, 1.0)

    def __init__(
        self,
        name: str,
        model: nn.Module,
        config: Mapping[str, Any],
        preprocess: Mapping[str, Any],
        tokenizer: Tokenizer,
        context_length: int,
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.config = dict(config)
        self.preprocess = dict(preprocess)
        self.view = view_of(name, preprocess)
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.width = int(config["embed_dim"])
        for key in ("mean", "std"):
            # Not part of the state: they belong to the preprocessing, which is saved beside the weights.
            values = torch.tensor(preprocess[key], dtype=torch.float32)
            self.register_buffer(key, values.reshape(3, 1, 1), persistent=False)
        self._ending = text.ending(model)
        self._flops: dict[tuple[str, int], int] = {}
        self._at_once: dict[int, int | None] = {}

    def train(self, mode: bool = True) -> Tower:
        """As in torch, except for `fixed` parts: nothing is dropped there, and batch statistics stay."""
        super().train(mode)
        for module in self.fixed:
            module.eval()
        return self

    # -- inputs ----------------------------------------------------------------------------------------------

    def pixels(self, images: Tensor) -> Tensor:
        """`[B, 3, S, S]` uint8 to float on the tower's device: scaled to 0..1, then mean and std applied."""
        images = images.to(self.mean.device, non_blocking=True)
        # The first division is not in place: the caller may have passed floats.
        return images.to(self.mean.dtype).div(255).sub_(self.mean).div_(self.std)

    @cached_property
    def ids(self) -> TokenIds:
        """The column of token ids that a batch needs for this tower; without it captions are tokenised on demand."""
        return TokenIds(self.tokenizer, self.context_length, self._ending)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """B texts to `[B, T]` int64 on the tower's device.

        T is the longest text of the batch if the rest cannot change the embedding (causal attention, pooled at the end
        of the text), otherwise `context_length`. Tokens are remembered per text.
        """
        ids = self.ids.of(texts)
        return padded(_cut(ids)).to(self.mean.device)

    def _here(self, ids: Tensor) -> Tensor:
        """Ids on the tower's device; every device but a CPU gets only the padding that it needs."""
        if ids.device.type == self.mean.device.type:
            return ids
        return self.ids.sent(ids).to(self.mean.device)

    def _parts(self, ids: Tensor) -> list[Tensor]:
        """The positions of texts that go through the text tower together, from ids on a CPU."""
        return text.by_length(lengths_of(ids)) if self._ending else [torch.arange(len(ids))]

    # -- embeddings ------------------------------------------------------------------------------------------

    def embed_image(self, images: Tensor) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]` of unit length, with gradient if enabled.

        Without gradient, in evaluation mode and on a CPU, it takes as many at once as are cheap in memory (`at_once`).
        """
        side = images.shape[-1]
        if self.training or torch.is_grad_enabled() or len(images) < 2:
            return self.embed_whole(images)
        if side not in self._at_once:
            self._at_once[side] = images_at_once(self.model, self.embed_whole, images[:1])
        limit = self._at_once[side] or len(images)
        if len(images) <= limit:
            return self.embed_whole(images)
        return torch.cat([self.embed_whole(part) for part in images.split(limit)])

    def embed_whole(self, images: Tensor) -> Tensor:
        """As `embed_image`, all images at once."""
        return _unit(self.model.encode_image(self.pixels(images)))  # type: ignore[operator]

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """B texts to `[B, d]` of unit length, with gradient if enabled."""
        return self._embed_ids(self.ids.of(texts))

    def embed_captions(self, candidates: Candidates) -> Tensor:
        """`embed_text` of the captions of B pairs, by the ids that were loaded with them."""
        return self._embed_ids(candidates.column(self.ids))

    def _embed_ids(self, ids: Tensor) -> Tensor:
        ids = self._here(ids)
        # Except on a CPU, each new shape costs more than the padding, and knowing a length means waiting for it.
        parts = self._parts(ids) if ids.device.type == "cpu" else []
        if len(parts) < 2:
            whole = _cut(ids) if parts else ids
            return _unit(text.encode(self.model, padded(whole), self._ending))
        features = [text.encode(self.model, padded(_cut(ids[part])), self._ending) for part in parts]
        return _unit(torch.cat(features)[torch.cat(parts).argsort()])

    def embed(self, candidates: Candidates) -> Embeddings:
        """Embeddings of B pairs with the model's own logit scale and bias, with gradient if enabled.

        Raises:
            AcedError: the candidates were not read in this tower's view.
        """
        images = candidates.images.get(self.view)
        if images is None:
            raise AcedError(
                f"Tower '{self.name}' needs images in {self.view}, but they were read in "
                f"{', '.join(map(str, candidates.images)) or 'no view'}; pass tower.view to the source's "
                "read()."
            )
        scale, bias = self.scale_and_bias()
        if self.training and self.partly is not None and candidates.coarse is not None:
            image = self.partly.embed_image(self, images, candidates.coarse)
        else:
            image = self.embed_image(images)
        return Embeddings(image, self.embed_captions(candidates), scale, bias)

    def forward(self, candidates: Candidates) -> Embeddings:
        """The same as `embed`; DistributedDataParallel wraps it as the module's forward."""
        return self.embed(candidates)

    def scale_and_bias(self) -> tuple[Scalar, Scalar]:
        """The logit scale, exp of the parameter, and the logit bias, 0 for a model without one; scalars."""
        bias = getattr(self.model, "logit_bias", None)
        scale: Tensor = self.model.logit_scale  # type: ignore[assignment]
        return scale.exp().reshape(()), 0.0 if bias is None else bias.reshape(())

    def score(self, candidates: Candidates, micro_batch: int) -> Embeddings:
        """Embeddings without gradient, in evaluation mode, at most `micro_batch` pairs at a time.

        Afterwards every submodule is back in its own mode.
        """
        if micro_batch < 1:
            raise ValueError(f"Tower.score: micro_batch must be at least 1, got {micro_batch}.")
        with evaluating(self), torch.no_grad():
            if len(candidates) <= micro_batch:
                return self(candidates).detach() if len(candidates) else self._nothing()
            return Embeddings.cat([self(part).detach() for part in candidates.split(micro_batch)])

    def score_images(self, images: Tensor, micro_batch: int) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]` as in `score`, without the texts."""
        with evaluating(self), torch.no_grad():
            return torch.cat([self.embed_image(part) for part in images.split(micro_batch)])

    def _nothing(self) -> Embeddings:
        """Embeddings of no pairs."""
        scale, bias = self.scale_and_bias()
        empty = self.mean.new_zeros(0, self.width)
        return Embeddings(empty, empty.clone(), scale, bias).detach()

    # -- facts -----------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """16 hex digits that change with weights, architecture, preprocessing, tokenizer and text length.

        Two towers with the same fingerprint embed identically, whatever their names.
        """
        return self.identity()["tower"]

    def identity(self) -> dict[str, str]:
        """Hashes of `weights`, `preprocessing`, `tokenizer` (with the text length) and `architecture`.

        Also of all four as `tower`, and of the first three as `contents`: the `tower` of versions that ignored the
        architecture, which is still compared for files written then.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            tensor = tensor.detach().to("cpu").contiguous()
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        marks = {"weights": digest.hexdigest()[:16]}
        for part, words in self._parts_in_words().items():
            digest.update(words.encode())
            marks[part] = hashlib.sha256(words.encode()).hexdigest()[:16]
        marks["contents"] = digest.hexdigest()[:16]
        marks["architecture"] = self._computation_mark()
        digest.update(marks["architecture"].encode())
        return marks | {"tower": digest.hexdigest()[:16]}

    def _computation_mark(self) -> str:
        """A hash of the model's computation beyond its weights."""
        return mark_of(computation(architecture(self.config, self.text_model)))

    def _parts_in_words(self) -> dict[str, str]:
        return {
            "preprocessing": repr((self.view, self.mean.tolist(), self.std.tolist())),
            "tokenizer": f"{tokenizer_identity(self.tokenizer)}:{self.context_length}",
        }

    def flops(self, text_length: int, image_size: int | None = None) -> Flops:
        """FLOPs of one forward pass per sample (a multiply-add counts as 2); backward costs twice that.

        Args:
            text_length: T of the tokens; counts as `context_length` if the tower does not trim.
            image_size: side of the images in pixels; default: the view's.
        """
        side = image_size or self.view.size
        length = min(text_length, self.context_length) if self._ending else self.context_length
        if ("image", side) not in self._flops:
            self._flops["image", side] = count_image(self, side)
        if ("text", length) not in self._flops:
            self._flops["text", length] = count_text(self, length)
        return Flops(self._flops["image", side], self._flops["text", length])

    def training_flops(self, candidates: Candidates) -> tuple[float, float]:
        """As `batch_flops`, for a forward pass in training mode, where some images may be processed coarsely.

        Returns:
            All FLOPs, and the part that gradients pass back through.
        """
        image: float = self.flops(self.context_length).image
        if self.partly is not None and candidates.coarse is not None:
            image = self.partly.image_flops(self, candidates.coarse)
        whole = self._forward_flops(candidates.column(self.ids), image)
        if self.behind == (1.0, 1.0):
            return whole, whole
        return whole, image * self.behind[0] + (whole - image) * self.behind[1]

    def batch_flops(self, candidates: Candidates, image_size: int | None = None) -> float:
        """FLOPs per pair, on average, of one forward pass over these pairs, padding included.

        Args:
            candidates: the pairs; if ids are not on a CPU, every row counts with the common padded length.
            image_size: side of the images in pixels; default: the view's.
        """
        image = self.flops(self.context_length, image_size).image
        return self._forward_flops(candidates.column(self.ids), image)

    def forward_flops(self, texts: Sequence[str], image_size: int | None = None) -> float:
        """As `batch_flops`, for a batch with these captions."""
        return self._forward_flops(self.ids.of(texts), self.flops(self.context_length, image_size).image)

    def _forward_flops(self, ids: Tensor, image: float) -> float:
        if len(ids) == 0:
            return image
        if ids.device.type != "cpu":
            return image + self.flops(ids.shape[1]).text
        lengths = lengths_of(ids)
        spent = sum(len(part) * self.flops(int(lengths[part].max())).text for part in self._parts(ids))
        return image + spent / len(ids)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.mean.device


def _cut(ids: Tensor) -> Tensor:
    """`[B, T]` ids on a CPU without the columns after the end of all texts."""
    return ids[:, : int(lengths_of(ids).max())] if len(ids) else ids[:, :1]


def _unit(features: Tensor) -> Tensor:
    """`[B, d]` with rows of length 1, in float32 at least: 8 mantissa bits would be off by up to 0.4 %."""
    return F.normalize(features.float() if features.dtype in (torch.bfloat16, torch.float16) else features, dim=-1)


def view_of(name: str, preprocess: Mapping[str, Any]) -> View:
    """The geometric half of an open_clip preprocessing config.

    Raises:
        AcedError: the config asks for something that no `View` supports: an oblong image, padding, nearest pixels.
    """
    size = preprocess["size"]
    if not isinstance(size, int):
        if len(set(size)) != 1:
            raise AcedError(f"{name}: image_size is {list(size)}; only square images are supported.")
        size = size[0]
    mode: Any = preprocess.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise AcedError(f"{name}: resize_mode is '{mode}'; only 'shortest' and 'squash' are supported.")
    # open_clip's inference transform knows these two, and uses bicubic for everything else.
    bilinear = preprocess.get("interpolation") == "bilinear"
    if any(not math.isfinite(v) or v == 0 for v in preprocess["std"]):
        raise AcedError(f"{name}: the preprocessing's std is {preprocess['std']}; it must not contain zero.")
    return View(int(size), mode, "bilinear" if bilinear else "bicubic")
