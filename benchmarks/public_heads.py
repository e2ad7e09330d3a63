"""The two projections of a tower with frozen trunks: features once, then training and validation on these alone.

What a trunk gives for an image or a text never changes here, so an epoch over thousands of pairs takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aced.config.sections import TrainSection
from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.models import Tower
from aced.pool.source import Source
from aced.train.optim import learning_rate, make_optimizer, set_learning_rate

TOLD = "a photo of a {}"
"""The prompt of a label in validation, and of an extra class in training."""
_READ = 64


@dataclass(frozen=True)
class Pairs:
    """Features of N pairs in front of the projections.

    Attributes:
        image: `[N, F]` float32.
        text: `[N, G]` float32.
    """

    image: Tensor
    text: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: Tensor) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.image[rows], self.text[rows])


@dataclass(frozen=True)
class Known:
    """What validation knows of N pairs.

    Attributes:
        sources: the collection that each pair is of.
        labels: its class; None in a collection of sentences, which has no classes.
        prompts: `[G]` text features of every label's prompt.
    """

    sources: Sequence[str]
    labels: Sequence[str | None]
    prompts: dict[str, Tensor]


def heads(tower: Tower) -> nn.ModuleList:
    """The projections of image and text."""
    model: Any = tower.model
    return nn.ModuleList([model.visual.head, model.text.proj])


@contextmanager
def _noted(head: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into a projection while the tower embeds."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    try:
        yield seen
    finally:
        handle.remove()


def features(tower: Tower, source: Source, tell: Callable[[int, int], None]) -> tuple[Pairs, list[int]]:
    """Features of all readable pairs of a source, and their positions in it.

    Args:
        tower: in evaluation mode and without gradient, as inside `remembering`.
        source: the pairs.
        tell: gets the pairs done, and all.
    """
    image, text = heads(tower)
    rows: list[int] = []
    with _noted(image) as images, _noted(text) as texts:
        for start in range(0, len(source), _READ):
            some = source.read(range(start, min(start + _READ, len(source))), [tower.view])
            if len(some):
                tower.embed_whole(some.images[tower.view])  # not embed_image, which tries some pictures first
                _encode(tower, some.texts)
                rows += some.indices.tolist()
            tell(start + _READ, len(source))
    return Pairs(torch.cat(images), torch.cat(texts)), rows


def text_features(tower: Tower, texts: Sequence[str]) -> Tensor:
    """`[n, G]` features of n texts, by a tower as for `features`."""
    with _noted(heads(tower)[1]) as seen:
        for start in range(0, len(texts), _READ):
            _encode(tower, texts[start : start + _READ])
    return torch.cat(seen)


def _encode(tower: Tower, texts: Sequence[str]) -> None:
    """Let the model encode texts in their order; `embed_text` would take short and long ones apart."""
    model: Any = tower.model
    model.encode_text(tower.tokens(texts))


def class_pairs(tower: Tower, image: Tensor, weights: Tensor, names: Sequence[str], strength: float) -> Pairs:
    """A pair for each class of a classifier over the same features: its name, and features that speak for it.

    These are the mean features of pictures, moved by `strength` of their spread along the class's weights and kept
    where such features lie, above 0.

    Args:
        tower: for the names' text features.
        image: `[N, F]` features of real pictures.
        weights: `[C, F]` the classifier's.
        names: C names.
        strength: in standard deviations of the real features.
    """
    centred = weights - weights.mean(dim=0)
    step = centred / centred.norm(dim=1, keepdim=True) * image.std(dim=0).norm()
    made = (image.mean(dim=0) + strength * step).clamp_min(0)
    return Pairs(made, text_features(tower, [TOLD.format(name) for name in names]))


def embed(tower: Tower, pairs: Pairs) -> Embeddings:
    """Features through the projections."""
    image, text = heads(tower)
    scale, bias = tower.scale_and_bias()
    return Embeddings(F.normalize(image(pairs.image), dim=1), F.normalize(text(pairs.text), dim=1), scale, bias)


def train_heads(tower: Tower, pairs: Pairs, extra: Pairs | None, section: TrainSection, more: int, seed: int) -> float:
    """Train both projections and the logit scale contrastively (softmax).

    Args:
        tower: whose projections are trained; all else of it is not.
        pairs: drawn in a new order each epoch.
        extra: pairs of another kind, `more` of which are drawn for each batch.
        section: batch, steps, rate, warm-up, weight decay.
        more: see `extra`.
        seed: of the orders and draws.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    for parameter in tower.model.parameters():
        parameter.requires_grad_(False)
    trained = heads(tower)
    for parameter in (*trained.parameters(), tower.model.logit_scale):
        parameter.requires_grad_()
    optimizer = make_optimizer(
        [tower.model],
        lr=section.lr,
        betas=section.betas,
        weight_decay=section.weight_decay,
        scale_lr=section.scale_lr,
    )
    generator = torch.Generator().manual_seed(seed)
    order, last = torch.empty(0, dtype=torch.int64), []
    for step in range(section.steps):
        if len(order) < section.batch:
            order = torch.cat([order, torch.randperm(len(pairs), generator=generator)])
        batch, order = pairs[order[: section.batch]], order[section.batch :]
        if extra is not None and more:
            some = extra[torch.randint(len(extra), (more,), generator=generator)]
            batch = Pairs(torch.cat([batch.image, some.image]), torch.cat([batch.text, some.text]))
        set_learning_rate(optimizer, learning_rate(step, section.steps, peak=section.lr, warmup=section.warmup))
        loss = losses.softmax(embed(tower, batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step >= int(0.9 * section.steps):
            last.append(loss.item())
    return sum(last) / len(last)


@contextmanager
def put_back(tower: Tower) -> Iterator[None]:
    """Give a tower its weights back at the end."""
    start = {name: value.clone() for name, value in tower.model.state_dict().items()}
    yield
    tower.model.load_state_dict(start)


def fit_bias(tower: Tower, pairs: Pairs, train: Callable[[Pairs], float], folds: int, batch: int) -> float:
    """The logit bias for the sigmoid loss, at the logit scale that the softmax loss trains, which has no bias itself.

    Without one, all pictures and texts that are alike at all count as pairs, and the reference's sigmoid losses say
    little. It is fitted on pairs that were held back, since projections know those they were trained on too well.

    Args:
        tower: its projections and scale are as before afterwards.
        pairs: of which the first of `folds` parts is held back.
        train: makes the projections from the other pairs.
        folds: number of parts.
        batch: pairs that meet in a loss, as in the batches that the reference will score.

    Returns:
        c, which has the lowest mean sigmoid loss over batches of held-back pairs.
    """
    place = torch.arange(len(pairs)) % folds
    with put_back(tower):
        train(pairs[(place != 0).nonzero()[:, 0]])
        held = embed(tower, pairs[(place == 0).nonzero()[:, 0]])
    scale = torch.as_tensor(held.scale).detach()
    parts = [(held.image[i : i + batch], held.text[i : i + batch]) for i in range(0, len(held) - batch + 1, batch)]
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([losses.sigmoid(Embeddings(*part, scale, bias)) for part in parts]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return bias.item()


# -- validation --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def validate(tower: Tower, pairs: Pairs, known: Known, rows: Tensor) -> dict[str, tuple[float, int]]:
    """Scores on pairs that were held back: for each collection the score, 0 to 1, and the pairs it is of.

    With classes, how often the right label has the highest score among all labels of the collection; elsewhere the
    mean of R@1 in both directions among the pairs held back.
    """
    found: dict[str, tuple[float, int]] = {}
    for source in sorted(set(known.sources)):
        own = torch.tensor([row for row in rows.tolist() if known.sources[row] == source], dtype=torch.int64)
        if not len(own):
            continue
        embedded = embed(tower, pairs[own])
        names = sorted({label for at, label in zip(known.sources, known.labels, strict=True) if at == source and label})
        if not names:
            scores, right = embedded.image @ embedded.text.T, torch.arange(len(own))
            hits = ((scores.argmax(1) == right).float() + (scores.argmax(0) == right).float()) / 2
        else:
            text = F.normalize(heads(tower)[1](torch.stack([known.prompts[name] for name in names])), dim=1)
            right = torch.tensor([names.index(str(known.labels[row])) for row in own.tolist()])
            hits = ((embedded.image @ text.T).argmax(1) == right).float()
        found[source] = hits.mean().item(), len(own)
    return found


def cross_validated(
    tower: Tower,
    pairs: Pairs,
    known: Known,
    train: Callable[[Pairs], float],
    folds: int,
) -> dict[str, float]:
    """Mean scores in percent over folds, each validated by projections that `train` made from the other pairs.

    The tower's projections are as before afterwards.
    """
    place = torch.arange(len(pairs)) % folds
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for fold in range(folds):
        with put_back(tower):
            train(pairs[(place != fold).nonzero()[:, 0]])
            found = validate(tower, pairs, known, (place == fold).nonzero()[:, 0])
        for source, (score, count) in found.items():
            sums[source] = sums.get(source, 0.0) + score * count
            counts[source] = counts.get(source, 0) + count
    return {source: 100 * sums[source] / counts[source] for source in sums}
