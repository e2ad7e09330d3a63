"""The packaged photo models speak CLIP's language; the demo family its own small one."""

import pytest

from aced.models import WordTokenizer, load_tower


@pytest.mark.parametrize(
    ("model", "words"),
    [("aced-photo-s", False), ("aced-photo-xs", False), ("aced-photo-m64", False), ("aced-demo-s", True)],
)
def test_the_tokenizer_fits_the_vocabulary(model: str, words: bool):
    tower = load_tower(model, seed=0)
    assert isinstance(tower.tokenizer, WordTokenizer) == words
    # A caption of web text is a handful of pieces, not a row of bytes that fills the context.
    length = tower.tokens(["photo of a red and white triangle with deer warning road sign"]).shape[1]
    assert (length < 20) != words


def test_the_smallest_photo_model_is_half_as_wide():
    half, whole = (load_tower(name, seed=0) for name in ("aced-photo-xs", "aced-photo-s"))
    states = [tower.model.state_dict() for tower in (half, whole)]
    assert states[0].keys() == states[1].keys()  # as deep
    for name in ("visual.trunk.pos_embed", "text.token_embedding.weight", "text.text_projection"):
        assert 2 * states[0][name].shape[-1] == states[1][name].shape[-1]
    assert half.flops(32).total < 0.4 * whole.flops(32).total


@pytest.mark.parametrize(("small", "large"), [("aced-photo-s", "aced-photo-s64"), ("aced-photo-m", "aced-photo-m64")])
def test_the_models_for_larger_pictures_differ_in_their_positions_alone(small: str, large: str):
    towers = [load_tower(name, seed=0) for name in (small, large)]
    assert [tower.config["vision_cfg"]["image_size"] for tower in towers] == [32, 64]
    shapes = [{name: value.shape for name, value in tower.model.state_dict().items()} for tower in towers]
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == {"visual.trunk.pos_embed"}
    assert [shape["visual.trunk.pos_embed"][1] for shape in shapes] == [16, 64]
    assert towers[0].flops(32).image < 0.3 * towers[1].flops(32).image
