"""Bytes that the towers keep for the backward pass, for each pair of a batch: plain, with activations computed anew,
under autocast, and with gradient caching. Counted on the tensors that autograd saves, so a CPU gives a GPU's figure
but for what fused kernels keep otherwise.

    python benchmarks/activations.py ViT-B-32 --batch 8
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from aced.core import losses
from aced.models import Tower, load_tower
from aced.models.switches import checkpoint_activations
from aced.pool.source import Candidates
from aced.train.distributed import World
from aced.train.replica import Replica


def most_kept(tower: Tower, batch: Candidates, *, precision: str = "fp32", grad_cache: int = 0) -> int:
    """Largest number of bytes that are kept at once in one forward and backward pass; parameters do not count."""
    replica = Replica(tower, torch.nn.Module(), World(), precision=precision, grad_cache=grad_cache)  # type: ignore[arg-type]
    parameters = {p.untyped_storage().data_ptr() for p in tower.parameters()}
    held: dict[int, int] = {}
    now = most = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, most
            self.tensor, storage = tensor, tensor.untyped_storage()
            self.key = storage.data_ptr()
            if self.key not in parameters:  # several saved views of one storage are kept once
                if self.key not in held:
                    now += storage.nbytes()
                held[self.key] = held.get(self.key, 0) + 1
                most = max(most, now)

        def __del__(self) -> None:
            nonlocal now
            if self.key in held:
                held[self.key] -= 1
                if held[self.key] == 0:
                    del held[self.key]
                    now -= self.tensor.untyped_storage().nbytes()

    tower.train()
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda h: h.tensor):
        replica.begin()
        replica.backward(losses.sigmoid(replica.embed(batch)))
    tower.zero_grad(set_to_none=True)
    return most


def pairs_of(tower: Tower, count: int) -> Candidates:
    """So many pairs of noise with a caption of some length."""
    side = tower.view.size
    texts = [f"a photo of number {i} on a wooden table in the evening" for i in range(count)]
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    return Candidates(torch.arange(count), texts, {tower.view: images})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an open_clip name, a JSON config or a folder")
    parser.add_argument("--batch", type=int, default=8, help="counted at this batch and at twice as many pairs")
    parser.add_argument("--target", type=int, default=32_768, help="the batch that memory is told for")
    args = parser.parse_args()
    tower = load_tower(args.model, seed=0)
    print(f"| {args.model} | MB a pair | whole batch of {args.target:,}, GB | micro-batches of 512, GB |")
    print("| --- | --- | --- | --- |")
    for anew in (False, True):
        if anew:
            checkpoint_activations(tower)
        for precision in ("fp32", "bf16"):
            # The difference, because low precision also keeps a copy of the weights, whatever the batch.
            few, many = (
                most_kept(tower, pairs_of(tower, n), precision=precision) for n in (args.batch, 2 * args.batch)
            )
            each = (many - few) / args.batch
            label = f"{precision}{', activations anew' if anew else ''}"
            figures = f"{each / 1e6:.2f} | {each * args.target / 1e9:,.1f} | {each * 512 / 1e9:.2f}"
            print(f"| {label} | {figures} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
