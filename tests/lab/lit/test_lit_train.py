"""The decoder: causal, taught what it is asked for, the same from the same seed; it needs its eyes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aced.errors import AcedError
from aced.lab.lit.decoder import DecoderShape, TextDecoder, make_decoder
from aced.lab.lit.decoder_training import DecoderSettings, Sight, sight_of, train_decoder, write_texts
from aced.lab.lit.scenes_vqa import make_scenes_examples
from aced.lab.lit.texts import TextExamples
from aced.lab.lit.tokens import cached_tokens
from aced.lab.lit.words import ANSWER, CAPTION, END, QUESTION, START, Vocabulary
from aced.models import load_tower

SHAPE = DecoderShape(width=32, heads=2, dropout=0.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[TextExamples], Sight, Vocabulary]:
    """Twelve captions and a dozen questions, with the tokens of an untrained encoder."""
    captions, questions = make_scenes_examples(120, "train", 0)
    few = [captions.only(range(12)), questions.only(range(12))]
    tower = load_tower("aced-demo-s", seed=2).eval()
    tokens = cached_tokens(tmp_path_factory.mktemp("tokens"), tower, captions.source)
    texts = [text for one in few for group in one.texts for text in group]
    vocabulary = Vocabulary.build([*texts, *few[1].questions], texts)
    return few, sight_of([captions.source], [tokens]), vocabulary


def trained(
    scenes: tuple[list[TextExamples], Sight, Vocabulary], sight: Sight, steps: int, seed: int = 0
) -> tuple[TextDecoder, list[float]]:
    few, _, vocabulary = scenes
    decoder = make_decoder(SHAPE, len(vocabulary), 0 if sight is None else 64, seed)
    losses = train_decoder(decoder, vocabulary, few, sight, DecoderSettings(steps=steps, batch=24, lr=5e-3), seed)
    return decoder, losses


def test_no_logit_sees_what_comes_after_it() -> None:
    decoder = make_decoder(SHAPE, 20, 8, 0).eval()
    ids = torch.randint(7, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    memory = decoder.memory(torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)), 2)
    before = decoder(ids, memory)
    ids[:, 6] = 7
    after = decoder(ids, memory)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-3)
    assert torch.allclose(decoder.next_logits(ids[:, :4], memory), after[:, 3], atol=1e-5)


def test_the_picture_has_a_part_in_every_logit() -> None:
    decoder = make_decoder(SHAPE, 20, 8, 0).eval()
    ids = torch.full((1, 4), 9)
    tokens = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    decoder(ids, decoder.memory(tokens, 1))[0, 2].square().sum().backward()
    assert tokens.grad is not None
    assert bool((tokens.grad.abs().sum(dim=2) > 0).all())


def test_it_learns_captions_and_answers_at_once_and_without_its_eyes_it_cannot(
    scenes: tuple[list[TextExamples], Sight, Vocabulary],
) -> None:
    few, sight, vocabulary = scenes
    decoder, losses = trained(scenes, sight, 150)
    assert losses[-1] < 0.1 * losses[0]
    for beams in (1, 3):
        captions = write_texts(decoder, vocabulary, few[0], sight, beams=beams)
        answers = write_texts(decoder, vocabulary, few[1], sight, beams=beams)
        assert sum(text in right for text, right in zip(captions, few[0].texts, strict=True)) >= 10
        assert sum(text in right for text, right in zip(answers, few[1].texts, strict=True)) >= 11
    blind, blind_losses = trained(scenes, None, 150)
    assert blind_losses[-1] > 3 * losses[-1]
    assert len(set(write_texts(blind, vocabulary, few[0], None))) == 1


def test_the_same_seed_gives_the_same_weights_and_the_global_generator_stays(
    scenes: tuple[list[TextExamples], Sight, Vocabulary],
) -> None:
    few, sight, vocabulary = scenes
    state = torch.random.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        decoder = make_decoder(DecoderShape(width=32, heads=2, dropout=0.1), len(vocabulary), 64, seed)
        train_decoder(decoder, vocabulary, few, sight, DecoderSettings(steps=3, batch=8), seed)
        found.append(torch.cat([p.detach().flatten() for p in decoder.parameters()]))
        torch.rand(3)
        torch.random.set_rng_state(state)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    make_decoder(SHAPE, 20, 8, 0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_the_text_is_learnt_and_not_the_question(
    scenes: tuple[list[TextExamples], Sight, Vocabulary], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, _, vocabulary = scenes
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = torch.nn.functional.cross_entropy

    def spy(logits: torch.Tensor, targets: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append((logits, targets))
        return real(logits, targets, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("aced.lab.lit.decoder_training.F.cross_entropy", spy)
    decoder = make_decoder(SHAPE, len(vocabulary), 0, 0)
    train_decoder(decoder, vocabulary, [few[1]], None, DecoderSettings(steps=1, batch=4), 0)
    learnt = [one for one in seen[0][1].tolist() if one != -100]
    assert learnt.count(END) == 4
    words = set(vocabulary.decode([one for one in learnt if one != END]).split())
    assert words <= {word for texts in few[1].texts for text in texts for word in text.split()}


def test_prompts_name_the_task() -> None:
    vocabulary = Vocabulary(["red", "is", "it"])
    assert vocabulary.caption_prompt() == [START, CAPTION]
    assert vocabulary.question_prompt("Is it red?", 10) == [START, QUESTION, 8, 9, 7, ANSWER]
    assert vocabulary.question_prompt("Is it red?", 2) == [START, QUESTION, 8, 9, ANSWER]


@pytest.mark.parametrize(("layers", "width"), [(1, 32), (7, 32), (2, 30)])
def test_sizes_out_of_range_are_refused(layers: int, width: int) -> None:
    with pytest.raises(AcedError, match=r"2 to 6|4 heads"):
        DecoderShape(layers=layers, width=width)


def test_a_loss_that_is_not_finite_stops_the_training(
    scenes: tuple[list[TextExamples], Sight, Vocabulary], tmp_path: Path
) -> None:
    few, _, vocabulary = scenes
    decoder = make_decoder(SHAPE, len(vocabulary), 0, 0)
    with torch.no_grad():
        decoder.head.bias.fill_(float("inf"))
    with pytest.raises(AcedError, match=r"finite.*step 0"):
        train_decoder(decoder, vocabulary, few, None, DecoderSettings(steps=2, batch=4), 0)
