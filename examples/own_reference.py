"""A model that is none of open_clip's as reference: three members and a tokenizer are all that it needs.

    python examples/own_reference.py            # a small module, made here
    python examples/own_reference.py FOLDER     # a CLIP of Hugging Face's transformers, from a local folder

The student is one of the demo family; `student=aced.own_tower(...)` would train a model of your own as well.
"""

import sys

import torch
from torch import nn

import aced

STEPS, SIZE, OUT = 10, 600, "runs/own-reference"


class Tiny(nn.Module):
    """Any module with these three members will do."""

    def __init__(self, width=16):
        super().__init__()
        self.image = nn.Conv2d(3, width, 16, 16)
        self.words = nn.Embedding(256, width)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))  # the logarithm of the scale

    def encode_image(self, pixels):
        """`[B, 3, S, S]` float to `[B, width]`; normalised by whoever asks."""
        return self.image(pixels).mean((2, 3))

    def encode_text(self, ids):
        """`[B, context_length]` ids to `[B, width]`."""
        return self.words(ids).mean(1)


def letters(texts):
    """B texts to `[B, 32]` int64: a tokenizer."""
    return torch.tensor([list(text.encode()[:32].ljust(32)) for text in texts])


class OfTransformers(nn.Module):
    """A CLIPModel of transformers with the names that are asked for."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    @property
    def logit_scale(self):
        """The logarithm of the scale."""
        return self.clip.logit_scale

    def encode_image(self, pixels):
        """As above."""
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)

    def encode_text(self, ids):
        """As above."""
        return self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output)


def of_transformers(folder):
    """The reference from a local folder of transformers."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    clip, words = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pixels = CLIPImageProcessor.from_pretrained(folder)
    length = clip.config.text_config.max_position_embeddings

    def tokenizer(texts):
        return words(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids

    return aced.own_tower(
        OfTransformers(clip),
        tokenizer,
        name="a CLIP of transformers",
        width=clip.config.projection_dim,
        image_size=clip.config.vision_config.image_size,
        context_length=length,
        mean=pixels.image_mean,
        std=pixels.image_std,
    )


def main(folder=None):
    """Choose and distil by that reference."""
    if folder:
        reference = of_transformers(folder)
    else:
        torch.manual_seed(0)
        reference = aced.own_tower(Tiny(), letters, name="tiny", width=16, image_size=32, context_length=32)
    config = {
        "run": {"out": OUT, "checkpoint_every": 0},
        "data": {"scenes_size": SIZE},
        "method": {"name": "aced"},
        "train": {"batch": 16, "steps": STEPS},
    }
    done = aced.train(config, reference=reference, tasks=[])
    print(f"{done.step} steps; the model is in {done.folder / 'model'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
