"""Contrastive and distillation losses on the CPU, forward and backward: tiles (`aced.losses`) against whole matrices.

    python benchmarks/losses.py                       # n = 16384, d = 512
    python benchmarks/losses.py --counts 64 1024 4096 # other sizes
    python benchmarks/losses.py --counts 32768 --alone # ours only
    python benchmarks/losses.py --counts 4096 --ranks 8 # one of 8 ranks against one process
    python benchmarks/losses.py --counts 32768 --flops --ranks 1 8 64 # what a rank multiplies, by shapes alone
    python benchmarks/losses.py --quick               # a small size, to see that it runs

The other side of the sigmoid loss is open_clip's SigLipLoss and of the softmax loss its ClipLoss; distillation stands
against the formula written with whole matrices in torch, since open_clip has no such loss by itself.

With `--ranks W` ours is what one of W ranks computes, its own rows, and the other side the whole batch in one process.
The rank meets no others: what they would have sent is there already, and what exchanges take is not in its time.

- *Time*: both sides in turn in one process, embeddings, logit scale and bias with gradients; the median of the turns.
  The figure beside it is the ratio ours / theirs of the medians.
- *Peak extra memory*: in a process of its own for each side, by how much the resident size rises at most during one
  forward and backward pass, gradients of the embeddings included (VmHWM, reset before; glibc gives freed memory back
  at once).
- *Difference*: of the gradients, largest absolute one relative to the largest entry, over image, text, scale (and
  bias, where the loss has one).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from selection import FREE_AT_ONCE, embeddings, forget_peak, peak
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.core.ranks import Alone
from aced.core.shares import Share
from aced.models.compat import import_open_clip

Pairs = Embeddings | Share
Loss = Callable[..., Tensor]


# --- the two sides ----------------------------------------------------------------------------------------------


def siglip(student: Embeddings, _: Embeddings) -> Tensor:
    """open_clip's sigmoid loss."""
    loss = import_open_clip().loss.SigLipLoss()
    return loss(student.image, student.text, student.scale, student.bias)


def clip(student: Embeddings, _: Embeddings) -> Tensor:
    """open_clip's softmax loss."""
    return import_open_clip().loss.ClipLoss()(student.image, student.text, student.scale)


def whole(e: Embeddings) -> Tensor:
    """All logits, `[n, n]`."""
    return e.scale * (e.image @ e.text.T) + e.bias


def softmax_kd(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Softmax distillation with whole matrices."""
    z, t = whole(student), whole(teacher)
    return sum(F.cross_entropy(own, theirs.softmax(1)) for own, theirs in ((z, t), (z.T, t.T))) / 2


def sigmoid_kd(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Sigmoid distillation with whole matrices."""
    z = whole(student)
    return F.binary_cross_entropy_with_logits(z, whole(teacher).sigmoid(), reduction="sum") / len(z)


SIDES: dict[str, dict[str, Loss]] = {
    "sigmoid": {"ours": lambda s, _: losses.sigmoid(s), "theirs": siglip},
    "softmax": {"ours": lambda s, _: losses.softmax(s), "theirs": clip},
    "softmax_kd": {"ours": losses.softmax_kd, "theirs": softmax_kd},
    "sigmoid_kd": {"ours": losses.sigmoid_kd, "theirs": sigmoid_kd},
}
PEERS = {"sigmoid": "open_clip SigLipLoss", "softmax": "open_clip ClipLoss"}


# --- measuring --------------------------------------------------------------------------------------------------


def inputs(count: int, width: int, device: torch.device | str = "cpu") -> tuple[Embeddings, Embeddings]:
    """A student whose four parts want gradients, and a teacher."""
    student = embeddings(count, width, 0).to(device)
    for side in (student.image, student.text):
        side.requires_grad_()
    scale, bias = (torch.tensor(v, device=device, requires_grad=True) for v in (10.0, -10.0))
    return replace(student, scale=scale, bias=bias), embeddings(count, width, 1).to(device)


class Ghosts(Alone):
    """`size` ranks of which only the first is there: the others' numbers are its own once more."""

    def __init__(self, size: int) -> None:
        self.size = size

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """What rank 0 gave, once for each."""
        return torch.cat([rows] * len(counts))


class Products(TorchDispatchMode):
    """Counts the FLOPs of matrix products, those that are added in place too, which torch's own counter leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))


def flops(name: str, count: int, width: int, ranks: int) -> int:
    """What one rank multiplies forward and backward in tiles as large as a GPU has them; nothing is computed."""
    tile, losses._TILE = losses._TILE, losses._GPU_TILE
    try:
        with FakeTensorMode(), Products() as products:
            student, teacher = inputs(count, width)
            pass_through(SIDES[name]["ours"], share(student, ranks), share(teacher, ranks))
    finally:
        losses._TILE = tile
    return products.flops


def print_flops(args: argparse.Namespace, console: Console) -> None:
    """A table and one line of JSON."""
    for count in args.counts:
        table = Table(title=f"FLOPs of a rank's products, forward and backward, n = {count:,}, d = {args.d}")
        found = {ranks: {name: flops(name, count, args.d, ranks) for name in args.losses} for ranks in args.ranks}
        for head in ("ranks", *args.losses, "together"):
            table.add_column(head, justify="right")
        for ranks, each in found.items():
            table.add_row(str(ranks), *(f"{n:.3g}" for n in (*each.values(), sum(each.values()))))
        console.print(table)
        print(json.dumps({"benchmark": "losses, flops", "n": count, "d": args.d, "results": found}))


def share(e: Embeddings, ranks: int) -> Share:
    """The first rank's share of a batch; the texts of all have arrived and collect a gradient, where these have one."""
    own = slice(0, len(e) // ranks)
    image = e.image[own].detach().requires_grad_(e.image.requires_grad)
    part = Embeddings(image, e.text[own].detach(), e.scale, e.bias)
    return Share(part, [len(part)] * ranks, Ghosts(ranks), e.image.dtype, e.text)


def pass_through(loss: Loss, student: Pairs, teacher: Pairs) -> list[Tensor]:
    """One forward and backward pass; returns the gradients."""
    own, text = (student.own, student.texts) if isinstance(student, Share) else (student, student.text)
    leaves = (own.image, text, own.scale, own.bias)
    for leaf in leaves:
        leaf.grad = None
    loss(student, teacher).backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def pairs_of(args: argparse.Namespace, side: str, count: int) -> tuple[Pairs, Pairs]:
    """What a side is given: a student and a teacher, or one rank's shares of them."""
    student, teacher = inputs(count, args.d)
    if args.ranks and side == "ours":
        return share(student, args.ranks[0]), share(teacher, args.ranks[0])
    return student, teacher


def child(args: argparse.Namespace) -> dict[str, object]:
    """One loss at one size, in this process: both sides' times, or one side's memory."""
    torch.set_num_threads(args.threads)
    count, sides = args.counts[0], SIDES[args.child]
    if args.ranks:  # one process takes the place of the other side
        sides = {"ours": sides["ours"], "theirs": sides["ours"]}
    for side in sides:  # libraries and thread pools are there
        pass_through(sides[side], *pairs_of(args, side, 64))
    if args.side:
        given = pairs_of(args, args.side, count)
        before = forget_peak()
        pass_through(sides[args.side], *given)
        return {"extra_mib": peak() - before}

    used = ["ours"] if args.alone else list(sides)
    turns = args.turns or min(300, max(3, round((8192 / count) ** 2)))
    seconds: dict[str, list[float]] = {side: [] for side in used}
    gradients, given = {}, {side: pairs_of(args, side, count) for side in used}
    for _ in range(turns):
        for side in used:
            start = time.perf_counter()
            found = pass_through(sides[side], *given[side])
            seconds[side].append(time.perf_counter() - start)
            gradients[side] = found
            del found
    result: dict[str, object] = {"turns": turns, **{side: statistics.median(s) for side, s in seconds.items()}}
    if not (args.alone or args.ranks):
        # A softmax has no bias: its gradient is left out.
        pairs = list(zip(gradients["ours"], gradients["theirs"], strict=False))[: 4 if "sigmoid" in args.child else 3]
        result["difference"] = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return result


def measure(args: argparse.Namespace, name: str, count: int) -> dict[str, float]:
    """Run one loss at one size in processes of its own."""
    command = [sys.executable, __file__, "--child", name, "--counts", str(count)]
    command += [f"--{key}={getattr(args, key)}" for key in ("d", "turns", "threads")]
    command += [f"--ranks={args.ranks[0]}"] if args.ranks else []
    command += ["--alone"] if args.alone else []

    def run(*more: str, **malloc: str) -> dict[str, float]:
        ended = subprocess.run(
            [*command, *more], check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **malloc}
        )
        return json.loads(ended.stdout)

    result = run()
    for side in ["ours"] if args.alone else ["ours", "theirs"]:
        result[f"{side}_mib"] = run("--side", side, **FREE_AT_ONCE)["extra_mib"]
    return result


def row(name: str, count: int, r: dict[str, float], of_a_rank: bool) -> list[str]:
    """A line of the table."""
    cells = [f"{count:,}", name, f"{r['ours']:.4g}", f"{r['ours_mib']:.1f}"]
    if "theirs" not in r:
        return [*cells, "", "", "", "", "", ""]
    return [
        *cells,
        "one process" if of_a_rank else PEERS.get(name, "whole matrices"),
        f"{r['theirs']:.4g}",
        f"{r['theirs_mib']:.1f}",
        f"{r['ours'] / r['theirs']:.2f}",
        f"{r['ours_mib'] / max(r['theirs_mib'], 1e-9):.3f}" if r["theirs_mib"] > 1 else "",
        f"{r['difference']:.1e}" if "difference" in r else "",
    ]


def main() -> None:
    """Parse, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[16384], help="n: pairs of the batch")
    parser.add_argument("--d", type=int, default=512, help="embedding width")
    parser.add_argument("--losses", nargs="+", choices=list(SIDES), default=list(SIDES), help="which ones")
    parser.add_argument("--turns", type=int, default=0, help="passes of each side; 0: by the size")
    parser.add_argument("--alone", action="store_true", help="leave out the other side, which needs much memory")
    parser.add_argument("--threads", type=int, default=1, help="more only on an idle machine")
    parser.add_argument("--ranks", type=int, nargs="+", default=[], help="W: one rank's rows against the whole batch")
    parser.add_argument("--flops", action="store_true", help="count what a rank multiplies for each number of ranks")
    parser.add_argument("--quick", action="store_true", help="n = 512, d = 64")
    parser.add_argument("--child", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    if args.quick:
        args.counts, args.d = [512], 64
    console = Console(width=160)
    if args.flops:
        print_flops(args, console)
        return
    if len(args.ranks) > 1:
        parser.error("several numbers of --ranks go with --flops alone")
    table = Table(title=f"Forward and backward, d = {args.d}, {args.threads} thread(s)")
    heads = ("n", "loss", "aced, s", "peak extra, MiB", "against", "s", "peak extra, MiB")
    for head in (*heads, "time ratio", "memory ratio", "difference of gradients"):
        table.add_column(head, justify="left" if head in ("loss", "against") else "right")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for count in args.counts:
        for name in args.losses:
            found = measure(args, name, count)
            results.setdefault(str(count), {})[name] = found
            table.add_row(*row(name, count, found, bool(args.ranks)))
    console.print(table)
    print(
        json.dumps(
            {"benchmark": "losses", "d": args.d, "threads": args.threads, "ranks": args.ranks, "results": results}
        )
    )


if __name__ == "__main__":
    main()
