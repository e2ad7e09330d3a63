"""The word tokenizer, and which tokenizer a model gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tower_fakes import CONFIGS, write_config

from aced.errors import AcedError
from aced.lab.family.stem_vit import CONFIGS as CONFIGS_FOLDER
from aced.lab.scenes import vocabulary
from aced.models import WordTokenizer, import_open_clip, load_tower
from aced.models.tokenizers import tokenizer_identity, word_lists

WORDS = WordTokenizer(["a", "red", "circle", "left"], context_length=12)


def test_the_packaged_vocabulary_is_that_of_the_scenes() -> None:
    assert (CONFIGS_FOLDER / "aced-demo-vocab.txt").read_text(encoding="utf-8").splitlines() == list(vocabulary())
    assert word_lists() == {len(vocabulary()) + 258: tuple(vocabulary())}


def test_every_word_of_the_scenes_is_one_token() -> None:
    tokenizer = WordTokenizer(vocabulary())
    assert all(len(tokenizer.encode(word)) == 2 for word in vocabulary())


def test_rows_are_padded_cut_and_end_in_the_highest_id() -> None:
    ids = WORDS(["a red circle", "a " * 30, ""])
    assert ids.dtype == torch.int64
    assert ids.shape == (3, 12)
    assert ids[0].tolist() == [257, 258, 259, 261] + [0] * 8
    assert ids[1].tolist() == [257] * 11 + [261]
    assert ids[2].tolist() == [261] + [0] * 11
    assert WORDS.vocab_size == 262
    assert WORDS("A Red").shape == (1, 12)
    assert WORDS(["a"], context_length=5).shape == (1, 5)


def test_case_and_punctuation() -> None:
    assert WORDS.encode("A RED") == WORDS.encode("a  red\n")
    assert WORDS.encode("red,circle") == [258, 1 + ord(","), 1 + ord(" "), 259, 261]
    assert WORDS.encode("left-red")[:1] == [260]


def test_unknown_words_are_told_apart() -> None:
    words = WordTokenizer(["a"], context_length=64)
    texts = ["ab c", "a bc", "abc", "ab", "猫", "犬", "ca", "a c"]
    assert len({tuple(words.encode(t)) for t in texts}) == len(texts)


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_text_has_ids_in_range_that_end_once(text: str) -> None:
    ids = WORDS.encode(text)
    assert 1 <= len(ids) <= 12
    assert ids.count(WORDS.eot_token_id) == 1
    assert ids[-1] == WORDS.eot_token_id
    assert all(0 < i < WORDS.vocab_size for i in ids)


def test_lone_surrogates_do_not_raise() -> None:
    assert WORDS.encode("\ud800")[-1] == WORDS.eot_token_id


def test_a_word_list_with_a_repeat_is_refused() -> None:
    with pytest.raises(AcedError, match="twice"):
        WordTokenizer(["a", "a"])


def test_a_config_gets_the_tokenizer_of_its_vocabulary(tmp_path: Path) -> None:
    text = {**CONFIGS["custom"]["text_cfg"]}
    config = {**CONFIGS["custom"], "text_cfg": text}
    clip = load_tower(write_config(tmp_path / "my-siglip.json", config))
    assert isinstance(clip.tokenizer, import_open_clip().SimpleTokenizer)

    text["vocab_size"] = len(vocabulary()) + 258
    demo = load_tower(write_config(tmp_path / "words.json", config))
    assert isinstance(demo.tokenizer, WordTokenizer)
    assert demo.tokenizer.words == tuple(vocabulary())

    text["vocab_size"] = 300
    path = write_config(tmp_path / "own.json", config)
    with pytest.raises(AcedError, match=r"vocab_size.*300.*49408"):
        load_tower(path)
    (tmp_path / "own-vocab.txt").write_text("cat\ndog\n")
    assert load_tower(path).tokenizer.words == ("cat", "dog")
    (tmp_path / "own-vocab.txt").write_text("\n".join(f"w{i}" for i in range(100)))
    with pytest.raises(AcedError, match="need vocab_size 358"):
        load_tower(path)


def test_tokenizers_that_need_a_download_are_refused(tmp_path: Path) -> None:
    for name in ("ViT-B-16-SigLIP", "roberta-ViT-B-32"):
        with pytest.raises(AcedError, match="download"):
            load_tower(name)
    config = {
        **CONFIGS["plain"],
        "text_cfg": {**CONFIGS["plain"]["text_cfg"], "hf_tokenizer_name": str(tmp_path)},
    }
    with pytest.raises(AcedError, match=r"pip install transformers|tokenizer "):
        load_tower(write_config(tmp_path / "hf.json", config))


def test_random_cuts_are_refused(tmp_path: Path) -> None:
    text = {**CONFIGS["plain"]["text_cfg"], "tokenizer_kwargs": {"reduction_mask": "random"}}
    with pytest.raises(AcedError, match="reduction_mask"):
        load_tower(write_config(tmp_path / "cut.json", {**CONFIGS["plain"], "text_cfg": text}))


def test_identities() -> None:
    simple = import_open_clip().SimpleTokenizer
    identities = {
        tokenizer_identity(t)
        for t in (
            WORDS,
            WordTokenizer(["red", "a", "circle", "left"]),
            WordTokenizer(["a"]),
            simple(),
            simple(clean="canonicalize"),
        )
    }
    assert len(identities) == 5
    assert tokenizer_identity(simple()) == tokenizer_identity(simple())
