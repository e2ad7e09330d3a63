"""The packaged photo models speak CLIP's language; the demo family its own small one."""

import pytest

from aced.models import WordTokenizer, load_tower


@pytest.mark.parametrize(("model", "words"), [("aced-photo-s", False), ("aced-demo-s", True)])
def test_the_tokenizer_fits_the_vocabulary(model: str, words: bool):
    tower = load_tower(model, seed=0)
    assert isinstance(tower.tokenizer, WordTokenizer) == words
    # A caption of web text is a handful of pieces, not a row of bytes that fills the context.
    length = tower.tokens(["photo of a red and white triangle with deer warning road sign"]).shape[1]
    assert (length < 20) != words
