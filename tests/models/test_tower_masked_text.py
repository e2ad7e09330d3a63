"""Text towers of Hugging Face that mask their padding get no more of it than the longest text of the batch needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aced.models import Tower, import_open_clip, load_tower

import_open_clip()  # before transformers, which imports torchvision
transformers = pytest.importorskip("transformers", reason="needs the package transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "dog", "on", "the", "mat"]
TEXTS = ["a dog", "a red dog on the mat", "the mat", "a red red dog on the red mat"]


def bert_tower(folder: Path, pooler: str, pad: int = 0) -> Tower:
    """A tower with a small BERT of random weights, 24 tokens of context."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertConfig(vocab_size=len(WORDS), pad_token_id=pad, **sizes).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    place = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_pooler_type": pooler}
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 16},
        "text_cfg": {**place, "hf_proj_type": "linear", "context_length": 24},
    }
    path = folder / "small.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return load_tower(path, seed=0).eval()


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_cutting_what_is_masked_leaves_the_embeddings(pooler: str, tmp_path: Path) -> None:
    tower = bert_tower(tmp_path, pooler)
    whole = tower.tokenizer(TEXTS)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(tower.model.encode_text(whole), dim=1)  # type: ignore[operator]
        torch.testing.assert_close(tower.embed_text(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert whole.shape == (4, 24)
    assert tower.tokens(TEXTS).shape == (4, 10)
    assert tower.forward_flops(TEXTS) < tower.flops(24).total


def test_padding_with_another_id_stays(tmp_path: Path) -> None:
    tower = bert_tower(tmp_path, "mean_pooler", pad=1)
    assert tower.tokens(TEXTS).shape == (4, 24)
