"""The choice of stable tasks: simulated tasks of known spread, plain loops, properties."""

from __future__ import annotations

import doctest
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from aced.errors import AcedError
from aced.evaluate.stability import spread
from aced.evaluate.stability.chance_guard import ChanceGuard
from aced.evaluate.stability.distributions import Floats
from aced.evaluate.stability.resampling import Rules, bootstrap, held_out
from aced.evaluate.stability.spread import Repeats, ScoreTable, choose, lowest, std_curve
from aced.evaluate.stability.stable_tasks import select_stable

QUICK = Rules(resamples=200, splits=50)


def table(
    values: Floats,
    recipes: Sequence[str] | None = None,
    n: float = 1000,
    chance: float | Sequence[float] = 0.1,
    ranked_only: Sequence[bool] | None = None,
) -> ScoreTable:
    rows, tasks = values.shape
    return ScoreTable(
        tasks=[f"t{i}" for i in range(tasks)],
        values=values,
        recipes=recipes or ["r"] * rows,
        n=np.full(tasks, float(n)),
        chance=np.broadcast_to(np.array(chance, dtype=float), tasks).copy(),
        errors=np.full((rows, tasks), math.nan),
        ranked_only=np.array(ranked_only if ranked_only is not None else [False] * rows),
    )


def simulated(sigmas: Sequence[float], seeds: int, seed: int = 0, mean: float = 0.5) -> Floats:
    """Independent normal tasks of known standard deviation."""
    return mean + np.random.default_rng(seed).normal(size=(seeds, len(sigmas))) * np.array(sigmas)


# --- the spread -----------------------------------------------------------------------------------------------------


def test_the_curve_is_the_standard_deviation_of_growing_averages() -> None:
    values = simulated([0.01, 0.02, 0.02, 0.05], 6)
    repeats = Repeats.of(table(values))
    curve = std_curve(repeats.deviations(values), repeats.df)
    for n in range(1, 5):
        averages = [sum(row[:n]) / n for row in values.tolist()]
        assert curve[n - 1] == pytest.approx(statistics.stdev(averages), rel=1e-12)
    sigma = repeats.sigma(repeats.deviations(values))
    assert sigma.tolist() == pytest.approx([statistics.stdev(column) for column in values.T.tolist()], rel=1e-12)


def test_pooling_is_within_recipes() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(7, 3)) * 0.01 + 0.5
    recipes = ["a", "b", "a", "b", "b", "a", "alone"]
    values[[1, 3, 4]] += 0.3  # another recipe is better everywhere; that is no spread over seeds
    repeats = Repeats.of(table(values, recipes))
    assert repeats.sizes == {"a": 3, "b": 3}
    assert repeats.df == 4
    for k in range(3):
        squares = 0.0
        for name in ("a", "b"):
            own = [values[i, k] for i in range(7) if recipes[i] == name]
            squares += sum((v - sum(own) / 3) ** 2 for v in own)
        assert repeats.sigma(repeats.deviations(values))[k] == pytest.approx(math.sqrt(squares / 4), rel=1e-12)


def test_the_lowest_place_is_the_last_of_equals() -> None:
    assert lowest(np.array([0.1, 0.5, 0.3, 0.3, 0.4]), 1) == 1
    assert lowest(np.array([0.1, 0.5, 0.3, 0.3, 0.4]), 2) == 4
    assert lowest(np.array([0.1, 0.5, 0.3, 0.3, 0.4]), 5) == 5
    assert doctest.testmod(spread).failed == 0


def test_n_is_where_theory_says() -> None:
    # With very many seeds the curve is sqrt(sum of the first N variances) / N: from the eighth task on it rises.
    sigmas = np.array([0.01] * 7 + [0.06, 0.08, 0.1])
    theory = [math.sqrt(sum(sigmas[:n] ** 2)) / n for n in range(1, 11)]
    expected = 1 + theory.index(min(theory))
    assert expected == 7
    shuffled = np.random.default_rng(5).permutation(10)
    found = select_stable(table(simulated(sigmas[shuffled], 4000)), replace(QUICK, least=1, resamples=0))
    assert found.chosen == expected
    assert sorted(found.kept) == sorted(f"t{i}" for i in range(10) if sigmas[shuffled[i]] == 0.01)
    assert [point.std for point in found.curve] == pytest.approx(theory, rel=0.1)
    assert [point.independent for point in found.curve] == pytest.approx(theory, rel=0.1)


def test_tasks_that_move_together_are_not_taken_for_independent() -> None:
    common = np.random.default_rng(0).normal(size=(4000, 1))
    found = select_stable(table(0.5 + 0.01 * np.repeat(common, 4, axis=1)), replace(QUICK, resamples=0))
    assert [point.std for point in found.curve] == pytest.approx([0.01] * 4, rel=0.05)
    assert found.curve[-1].independent == pytest.approx(0.005, rel=0.05)


def test_the_order_of_rows_and_tasks_does_not_matter() -> None:
    values = simulated([0.01, 0.05, 0.02, 0.09, 0.03, 0.2], 5)
    first = select_stable(table(values), QUICK)
    rows, tasks = np.array([3, 1, 4, 0, 2]), np.array([5, 2, 0, 4, 1, 3])
    mixed = replace(table(values[rows][:, tasks]), tasks=[f"t{i}" for i in tasks])
    second = select_stable(mixed, QUICK)
    assert second.kept == first.kept
    assert [t.sigma for t in second.tasks] == pytest.approx([t.sigma for t in first.tasks], rel=1e-12)
    assert [p.std for p in second.curve] == pytest.approx([p.std for p in first.curve], rel=1e-12)


# --- the guard ------------------------------------------------------------------------------------------------------


def test_tasks_at_chance_are_dropped_first_however_stable_they_are() -> None:
    values = simulated([0.0001, 0.0001, 0.02, 0.02, 0.03, 0.02], 6)
    values[:, :2] += 0.104 - 0.5  # hardly above the chance of .1, with n = 1000
    found = select_stable(table(values), QUICK)
    verdicts = {task.name: task.verdict for task in found.tasks}
    assert verdicts["t0"] == verdicts["t1"] == "chance"
    assert len(found.curve) == 4
    assert [task.verdict for task in found.tasks][-2:] == ["chance", "chance"]
    assert found.full.tasks == 6
    assert found.above_chance.tasks == 4


def test_the_guard_is_scipys_test_on_the_mean_and_does_not_count_seeds_as_queries() -> None:
    tests = 4
    for hits in range(100, 140):
        values = np.full((10, tests), 0.5)
        values[:, 0] = hits / 1000
        p = stats.binomtest(hits, 1000, 0.1, alternative="greater").pvalue
        task = next(t for t in select_stable(table(values), QUICK).tasks if t.name == "t0")
        assert task.p_value == pytest.approx(p, rel=1e-8)
        assert (task.verdict != "chance") == (p <= 0.05 / tests), hits


def test_one_recipe_above_chance_is_enough_and_pays_for_the_choice() -> None:
    values = np.full((4, 2), 0.5)
    values[:2, 0] = 0.1
    scores = table(values, ["a", "a", "b", "b"])
    guard = ChanceGuard.of(scores, Repeats.of(scores), 0.05)
    assert guard.passes(Repeats.of(scores).means(values)).all()
    assert guard.p_values[1] == pytest.approx(2 * stats.binomtest(500, 1000, 0.1, alternative="greater").pvalue)


def test_guessers_are_rarely_kept() -> None:
    generator = np.random.default_rng(0)
    n, chance, tasks, tables = 500, 0.1, 20, 300
    wrong = 0
    for _ in range(tables):
        values = generator.binomial(n, chance, size=(1, tasks)) / n
        values = np.repeat(values, 3, axis=0)  # the worst case: all seeds make the same guesses
        scores = table(values, n=n, chance=chance)
        guard = ChanceGuard.of(scores, Repeats.of(scores), 0.05)
        wrong += bool(guard.passes(Repeats.of(scores).means(values)).any())
    assert wrong / tables <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables)
    assert wrong > 0  # nor is the test empty


def test_without_n_or_chance_a_task_is_not_tested() -> None:
    scores = table(np.array([[0.1, 0.5, 0.5], [0.1, 0.5, 0.4]]))
    scores.n[0] = math.nan
    scores.chance[1] = math.nan
    tasks = {task.name: task for task in select_stable(scores, QUICK).tasks}
    assert tasks["t0"].verdict != "chance"
    assert tasks["t0"].p_value is tasks["t0"].sampling is tasks["t0"].n is None
    assert tasks["t1"].p_value is tasks["t1"].chance is None
    assert tasks["t1"].sampling == pytest.approx(math.sqrt(0.25 / 1000))


def test_the_files_own_standard_errors_come_before_the_binomial_one() -> None:
    scores = table(np.full((3, 2), 0.5))
    scores.errors[:, 0] = [0.01, 0.02, 0.03]
    scores.errors[:2, 1] = 0.01  # one row has none
    found = {task.name: task.sampling for task in select_stable(scores, QUICK).tasks}
    assert found["t0"] == pytest.approx(0.02)
    assert found["t1"] == pytest.approx(math.sqrt(0.25 / 1000))


# --- how sure it is -------------------------------------------------------------------------------------------------


def test_the_bootstrap_has_the_variance_of_the_sample_on_average() -> None:
    values = simulated([0.01, 0.03], 3)
    scores = table(values)
    repeats = Repeats.of(scores)
    boot = bootstrap(scores, repeats, ChanceGuard.of(scores, repeats, 0.05), Rules(resamples=4000))
    sample = repeats.sigma(repeats.deviations(values)) ** 2
    assert (boot.sigma**2).mean(0) == pytest.approx(sample, rel=0.06)  # unstretched it would be 2/3 of it


def test_many_small_recipes_are_resampled_as_wholes() -> None:
    values = simulated([0.01, 0.03], 12)
    scores = table(values, [name for name in "abcdef" for _ in range(2)])
    repeats = Repeats.of(scores)
    boot = bootstrap(scores, repeats, ChanceGuard.of(scores, repeats, 0.05), Rules(resamples=2000))
    assert (boot.sigma > 0).all()  # by rows, one resample in 64 would have no spread at all
    assert (boot.sigma**2).mean(0) == pytest.approx(repeats.sigma(repeats.deviations(values)) ** 2, rel=0.06)
    means, deviations, df = repeats.resampled(values, np.random.default_rng(0))
    assert (means.shape, deviations.shape, df) == ((6, 2), (12, 2), 6)
    pairs = {tuple(values[i : i + 2].mean(0)) for i in range(0, 12, 2)}
    assert {tuple(mean) for mean in means} <= pairs


def test_clear_tasks_are_kept_in_all_resamples_and_hopeless_ones_in_none() -> None:
    values = simulated([0.005] * 5 + [0.4], 12, mean=0.6).clip(0, 1)
    values = np.column_stack([values, np.full(12, 0.1)])
    found = select_stable(table(values), replace(QUICK, least=5))
    assert {task.name: task.kept_share for task in found.tasks} == {f"t{i}": float(i < 5) for i in range(7)}
    found = select_stable(table(values), QUICK)
    assert found.chosen_low is not None
    assert found.chosen_low <= found.chosen <= found.chosen_high
    for task in found.tasks[:5]:
        assert task.sigma_low < task.sigma < task.sigma_high
    for point in found.curve:
        assert point.low <= point.high


def test_the_same_seed_gives_the_same_answer_and_another_a_similar_one() -> None:
    scores = table(simulated([0.01, 0.05, 0.02, 0.09], 5))
    assert select_stable(scores, QUICK) == select_stable(scores, QUICK)
    other = select_stable(scores, replace(QUICK, seed=1))
    assert other.kept == select_stable(scores, QUICK).kept
    assert other != select_stable(scores, QUICK)


def test_held_out_seeds_tell_real_noise_from_luck() -> None:
    def ratio(sigmas: Sequence[float], seed: int) -> float:
        values = simulated(sigmas, 40, seed)
        found = held_out(values, np.arange(len(sigmas)), Repeats.of(table(values)), Rules(splits=50))
        assert found is not None
        return found

    assert ratio([0.01] * 8 + [0.2, 0.3], 0) < 0.2
    # Equal tasks: whatever is left out seemed noisy by chance, and fewer tasks make a less steady average.
    assert np.mean([ratio([0.05] * 10, seed) for seed in range(10)]) > 0.98


def test_two_rows_are_too_few_to_hold_any_out_or_to_resample() -> None:
    found = select_stable(table(simulated([0.01, 0.05, 0.02], 2)), QUICK)
    assert found.df == 1
    assert found.held_out is None
    assert found.chosen_low is found.curve[0].low is found.tasks[0].sigma_high is found.tasks[0].kept_share is None


def test_small_recipes_are_halved_as_wholes() -> None:
    values = simulated([0.01] * 5 + [0.2], 8).clip(0, 1)
    found = select_stable(table(values, ["a", "a", "b", "b", "c", "c", "d", "d"]), QUICK)
    assert found.held_out is not None
    assert 0 < found.held_out < 1


# --- ranking --------------------------------------------------------------------------------------------------------


def test_the_ranking_is_of_recipe_means_on_both_averages() -> None:
    generator = np.random.default_rng(3)
    recipes = ["a"] * 3 + [f"m{i}" for i in range(9)]
    values = generator.uniform(0.3, 0.7, size=(12, 6))
    values[:3] = values[0] + generator.normal(size=(3, 6)) * [0.001, 0.001, 0.001, 0.001, 0.1, 0.2]
    found = select_stable(table(values, recipes), QUICK)
    kept = [int(name[1:]) for name in found.kept]
    rows = [values[:3].mean(0), *values[3:]]
    full, stable = [row.mean() for row in rows], [row[kept].mean() for row in rows]
    assert found.models == 10
    assert found.tau == pytest.approx(stats.kendalltau(full, stable).statistic)
    swapped = sum((full[i] - full[j]) * (stable[i] - stable[j]) < 0 for i in range(10) for j in range(i))
    assert found.swapped == swapped > 0
    assert found.full.spread == pytest.approx(statistics.stdev(full))
    assert found.stable.signal == pytest.approx(statistics.stdev(stable) / found.stable.std)


def test_rows_that_are_ranked_only_measure_no_spread_and_are_ranked_alone() -> None:
    values = simulated([0.01, 0.02, 0.03], 6)
    extra = np.array([[0.2, 0.3, 0.4], [0.9, 0.1, 0.5], [0.7, 0.8, 0.9], [0.1, 0.2, 0.9]])
    scores = table(
        np.concatenate([values, extra]), ["r"] * 6 + ["x", "y", "z", "x"], ranked_only=[False] * 6 + [True] * 4
    )
    found = select_stable(scores, QUICK)
    assert found.recipes == {"r": 6}
    assert [t.sigma for t in found.tasks] == [t.sigma for t in select_stable(table(values), QUICK).tasks]
    assert found.models == 3
    means = [(extra[0] + extra[3]).mean() / 2, extra[1].mean(), extra[2].mean()]
    assert found.full.spread == pytest.approx(statistics.stdev(means))


def test_a_single_recipe_has_no_ranking() -> None:
    found = select_stable(table(simulated([0.01, 0.02], 4)), QUICK)
    assert (found.tau, found.models, found.swapped, found.full.spread) == (None, 1, 0, None)


def test_identical_repeats_have_no_spread_at_all() -> None:
    found = select_stable(table(np.array([[0.5, 0.6, 0.7]] * 3 + [[0.4, 0.6, 0.6]]), ["r"] * 3 + ["m"]), QUICK)
    assert found.chosen == 3
    assert found.stable.std < 1e-12
    assert found.stable.signal is found.held_out is None


# --- refusals -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_chosen_from() -> None:
    values = simulated([0.01, 0.02, 0.03], 4)
    with pytest.raises(AcedError, match=r" 4 recipes.*--repeat-pattern"):
        select_stable(table(values, ["a", "b", "c", "d"]), QUICK)
    with pytest.raises(AcedError, match="chance"):
        select_stable(table(values, chance=0.6), QUICK)
    with pytest.raises(AcedError, match=r"4 tasks.* 3"):
        select_stable(table(values), replace(QUICK, least=4))


def test_the_fewest_tasks_are_half_of_those_above_chance() -> None:
    sigmas = [0.0001, 0.1, 0.1, 0.1, 0.1]
    found = select_stable(table(simulated(sigmas, 50)), QUICK)
    assert found.least == 3
    assert found.chosen >= 3
    assert select_stable(table(simulated(sigmas, 50)), replace(QUICK, least=1)).kept == ["t0"]
    deviations = simulated(sigmas, 50) - 0.5
    assert choose(deviations, np.array([0, 1, 2]), 49, 9).count == 3  # a resample may have fewer above chance
