"""Your own dataset, without tars: say how many pairs there are and give one of them.

    python examples/own_dataset.py

`Squares` draws its images; yours would open a file, ask a database, or index an array.
"""

import numpy as np

import aced

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
STEPS, PAIRS, OUT = 20, 256, "runs/own-dataset"


class Squares(aced.PairSource):
    """A square of some colour somewhere on grey."""

    name = "squares"

    def __len__(self):
        return PAIRS

    def pair(self, index):
        """The image, `[H, W, 3]` uint8 (a path, bytes or an image of Pillow would do), and its caption."""
        rng = np.random.default_rng(index)
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        image = np.full((64, 64, 3), 128, np.uint8)
        top, left = rng.integers(0, 40, 2)
        image[top : top + 24, left : left + 24] = COLOURS[colour]
        return image, f"a {colour} square"


def main():
    """Train the smallest student of the demo on them, without a reference."""
    config = {
        "run": {"out": OUT, "checkpoint_every": 0},
        "method": {"name": "iid"},
        "train": {"batch": 32, "steps": STEPS},
    }
    done = aced.train(config, source=Squares())
    print(f"{done.step} steps; the model is in {done.folder / 'model'}")


if __name__ == "__main__":
    main()
