"""ACED in a training loop of your own: plain open_clip models, and three lines of aced.

    python examples/own_loop.py

Trains a tiny student for a few steps on built-in pictures with a random reference, to show where the lines go: put
your own models, your reference's checkpoint and your data loader in their places.
"""

import torch

import aced
from aced.models import import_open_clip

STEPS, SUPER_BATCH, BATCH = 20, 320, 64


def embed(model, images, tokens):
    """Normalised embeddings with the model's own logit scale and bias."""
    return aced.Embeddings(
        model.encode_image(images, normalize=True),
        model.encode_text(tokens, normalize=True),
        model.logit_scale.exp(),
        model.logit_bias,
    )


def main():
    """A plain loop; the lines marked `aced` choose the batch and distil the reference on it."""
    open_clip = import_open_clip()
    torch.manual_seed(0)
    student = open_clip.create_model("aced-demo-s")
    reference = open_clip.create_model("aced-demo-m").eval()  # your reference, with its trained weights
    tokenizer = aced.load_tower("aced-demo-s").tokenizer
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)

    from aced.lab.scenes import make_pool

    pool = make_pool(4 * SUPER_BATCH, seed=1)
    for step in range(STEPS):
        rows = torch.randperm(len(pool), generator=generator)[:SUPER_BATCH]
        images, tokens = pool.pixels[rows] / 127.5 - 1, tokenizer([pool.captions[i] for i in rows])
        with torch.no_grad():
            ref = embed(reference, images, tokens)
            sel = aced.select(embed(student, images, tokens), ref, BATCH, generator=generator)  # aced
        chosen = embed(student, images[sel.indices], tokens[sel.indices])
        loss = aced.losses.sigmoid(chosen)  # aced
        loss = loss + 2 * aced.losses.softmax_kd(chosen, ref[sel.indices])  # aced
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1:2d}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
