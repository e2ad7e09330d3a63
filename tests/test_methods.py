from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import pytest

from aced.core.score_models import SCORES, Strategy
from aced.errors import AcedError, nearest
from aced.methods import METHODS, Method, get_method, register_method
from aced.registry.objectives import DISTILLATIONS, LOSSES
from wording import tells

EVERY = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@EVERY
def test_every_row_is_coherent(method: Method) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", method.name)
    assert METHODS[method.name] is method
    assert method.title
    assert method.about
    assert not method.about.endswith(".")
    assert method.score is None or method.score in SCORES
    assert method.strategy in get_args(Strategy)
    assert method.distill is None or method.distill in DISTILLATIONS
    assert (method.weight > 0) == (method.distill is not None)
    assert method.distill_on == "same" or method.distill is not None
    assert method.distill_on == "same" or method.score is not None  # an i.i.d. batch is no other batch
    assert method.reference == "large" or method.uses_reference
    assert (method.second_weight > 0) == (method.second is not None)
    assert all(name in DISTILLATIONS for name, _ in method.distillations)
    assert method.distill is not None or (method.second is None and method.contrastive)
    assert method.loss is None or method.loss in LOSSES
    assert not method.columns or method.distill == "softmax"
    assert method.strategy == "joint" or method.score != "diverse"


@EVERY
def test_every_row_says_what_it_needs(method: Method) -> None:
    assert method.scores_student == (method.score in {"learnability", "hard-student"} or method.name == "dissect")
    assert method.scores_reference == (method.score in {"learnability", "easy-reference", "diverse"})
    assert method.needs_large == (method.distill is not None or (method.uses_reference and method.reference == "large"))
    assert method.needs_peer == (method.uses_reference and method.reference == "peer")
    assert method.guided == (method.loss == "drrho")


def test_names_titles_and_combinations_are_unique() -> None:
    rows = list(METHODS.values())
    assert len({m.name for m in rows}) == len({m.title for m in rows}) == len({m.about for m in rows}) == len(rows)
    named = {"name", "title", "about", "weight", "second_weight"}

    def effect(m: Method) -> tuple[object, ...]:
        idle = set() if m.score else {"strategy"}
        return tuple(value for key, value in vars(m).items() if key not in named | idle)

    effects = {effect(m) for m in rows}
    assert len(effects) == len(rows)


# METHOD section 5: what each row of the paper does.
@pytest.mark.parametrize(
    ("name", "score", "distill", "distill_on", "needs_large"),
    [
        ("iid", None, None, "same", False),
        ("softmax-kd", None, "softmax", "same", True),
        ("sigmoid-kd", None, "sigmoid", "same", True),
        ("fm-kd", None, "features", "same", True),
        ("i-acid", "easy-reference", None, "same", True),
        ("h-acid", "learnability", None, "same", True),
        ("aced", "learnability", "softmax", "same", True),
        ("aced-iidistill", "learnability", "softmax", "iid", True),
        ("i-aced", "easy-reference", "softmax", "same", True),
        ("jest", "learnability", None, "same", False),
        ("hard-student", "hard-student", None, "same", False),
    ],
)
def test_the_papers_rows(name: str, score: str | None, distill: str | None, distill_on: str, needs_large: bool) -> None:
    method = get_method(name)
    assert (method.score, method.distill, method.distill_on) == (score, distill, distill_on)
    assert method.strategy == "joint"
    assert method.needs_large is needs_large
    assert method.needs_peer is (name == "jest")


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        get_method("aced").weight = 3.0  # type: ignore[misc]


def test_another_weight_is_a_copy() -> None:
    assert get_method("aced", weight=4.0).weight == 4.0
    assert get_method("aced").weight == METHODS["aced"].weight == 2.0
    assert get_method("aced", weight=4.0).score == "learnability"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acid", "'acid' … 'i-acid'"),
        ("softmaxkd", "'softmax-kd'"),
        ("ACED", "'ACED' … 'aced'"),
        ("H_ACID", "'h-acid'"),
        ("zzz", "'zzz'"),
    ],
)
def test_an_unknown_name_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(AcedError) as error:
        get_method(name)
    assert tells(str(error.value), message)


def test_a_weight_for_a_method_that_distils_nothing() -> None:
    with pytest.raises(AcedError, match="'h-acid'"):
        get_method("h-acid", weight=1.0)


def test_a_second_weight_for_a_method_without_a_second_distillation() -> None:
    assert get_method("softmax-fm-kd", second_weight=5.0).distillations == [("softmax", 2.0), ("features", 5.0)]
    with pytest.raises(AcedError, match="'softmax-kd'"):
        get_method("softmax-kd", second_weight=1.0)
    with pytest.raises(AcedError, match=r"positive.* 0\.0"):
        get_method("softmax-fm-kd", second_weight=0.0)


def test_a_loss_that_looks_at_the_reference_makes_any_method_need_one() -> None:
    assert not get_method("iid", loss="softmax").needs_large
    assert get_method("iid", loss="drrho").needs_large
    assert get_method("drrho", loss="sigmoid").loss == "drrho"  # its own
    with pytest.raises(AcedError, match="no loss 'drro'"):
        get_method("iid", loss="drro")


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_means_nothing(weight: float) -> None:
    with pytest.raises(AcedError, match="positive"):
        get_method("aced", weight=weight)


def test_nearest_keeps_the_known_names_case() -> None:
    assert nearest("vit-ti", ["ViT-Ti", "RN50"]) == " Did you mean 'ViT-Ti'?"
    assert nearest("x", ["b", "A"]) == " Known: A, b."


def test_a_loss_that_is_never_computed_needs_no_reference() -> None:
    assert not get_method("kd-only", loss="drrho").guided


def test_a_row_that_filters_and_chooses_is_refused() -> None:
    row = replace(METHODS["h-acid"], name="both", filters=True)
    with pytest.raises(AcedError, match="'both' filters"):
        register_method(row)
