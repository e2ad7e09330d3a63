"""Images embedded on a CPU in the batches that were asked for, and in parts whose activations memory is cheap for.

    python benchmarks/micro_batch.py [--images 256] [--batch 256]

Prints user and system seconds, page faults and images a second of processor time of both, for a convolutional tower
at 160 pixels, a ViT at 224 and a demo model, with random weights. One thread, and both ways in one process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch

from aced.models import Tower, load_tower

CONVOLUTIONAL = {
    "embed_dim": 128,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite2",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 160,
    },
    "text_cfg": {"context_length": 16, "vocab_size": 450, "width": 64, "heads": 2, "layers": 2},
}


def towers() -> dict[str, Tower]:
    """By name; the convolutional one from a config of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "efficientnet-lite2-160.json"
        config.write_text(json.dumps(CONVOLUTIONAL), encoding="utf-8")
        found = {config.stem: load_tower(str(config), seed=0)}
    return found | {name: load_tower(name, seed=0) for name in ("ViT-S-32", "aced-demo-m")}


def spent(tower: Tower, images: torch.Tensor, batch: int) -> dict[str, float]:
    """What embedding the images costs."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    tower.score_images(images, batch)
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    faults = after.ru_minflt - before.ru_minflt
    return {"user": user, "system": system, "faults": faults, "rate": len(images) / max(user + system, 1e-9)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    options: Any = parser.parse_args()
    torch.set_num_threads(1)
    for name, tower in towers().items():
        side, count = tower.view.size, options.images * (8 if tower.view.size < 64 else 1)
        images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        tower.score_images(images[:8], 8)  # measures what fits, and warms up
        fits = tower._at_once[side]
        print(f"{name}, {side} px, {count} images, {options.batch} asked for, {fits} at once")
        rates = []
        for what, limit in (("as asked for", None), ("in parts", fits)):
            tower._at_once[side] = limit
            found = spent(tower, images, options.batch)
            rates.append(found["rate"])
            print(
                f"  {what:12}  user {found['user']:6.2f} s  system {found['system']:6.2f} s  "
                f"faults {found['faults'] / 1e3:8.1f}k  {found['rate']:8.1f} images/s of processor time"
            )
        print(f"  ratio {rates[1] / rates[0]:.2f}")


if __name__ == "__main__":
    main()
