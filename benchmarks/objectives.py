"""Does selection by learnability help objectives that compare no pairs? Captions and classes, by `aced.select_losses`.

    python benchmarks/objectives.py run --photos data/pool --curated data/curated --more data/more --eval data/eval
    python benchmarks/objectives.py table

Three experiments (`--only`): a captioner (encoder and LiT's decoder, trained together) on noisy captions of scenes
(`scenes`) and of photos (`photos`), and a classifier on noisy classes of photos (`classes`). A step trains on random
samples, or on those of a super-batch that have the best score: `learnability` (the student's loss minus the
reference's), `easy-reference`, `hard-student`. A reference is the student's architecture, trained on trusted samples;
its losses of the pool are computed once.

Rate and temperature of the draw are chosen on trusted samples that were held back (the best of a few, at half of the
steps, another seed). Time is compared twice: where the student scores the super-batch, with as many steps as fit into
the processor time of random batches, and random batches with as many as fit into that of learnability. Every figure
goes to `--out` at once; what stands there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from objective_data import EXPERIMENTS, Experiment
from objective_students import Plan, fitted, measured, train
from safetensors.torch import load_file
from torch import Tensor

from aced.core.score_models import SCORES
from aced.errors import AcedError
from aced.files.atomic import save_tensors_atomic, write_atomic
from aced.runtime.threads import set_threads

OUT = Path(__file__).parent / "studies" / "objectives.json"
RANDOM = "random"
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TEMPERATURES = (0.0, 1.0)
STEPS = {"scenes": 120, "photos": 120, "classes": 300}
REFERENCE = 4
"""Steps of a reference, in those of a student; the best of eight stops on the way is kept."""
CHOOSING_SEED = 100
BUDGETS = {
    "equal samples": ("samples", "samples"),
    "random's time": ("samples", "short"),
    "learnability's time": ("long", "samples"),
}
"""Which runs are compared: those of methods without the student's scores, and those with them."""
TURNS = 6
"""How often random batches and learnability take turns while their steps are timed."""


@dataclass(frozen=True)
class Method:
    """How samples are chosen: a score of `aced.select_losses`, and the reference that it asks ("" for none)."""

    score: str
    reference: str

    @property
    def name(self) -> str:
        """In keys and tables."""
        return f"{self.score or RANDOM}{self.reference and ' '}{self.reference}"

    @property
    def asks_student(self) -> bool:
        """Whether the student scores the super-batch."""
        return bool(self.score) and bool(SCORES[self.score].student)


def methods(references: Sequence[str]) -> list[Method]:
    """Random batches, and each score with each reference that it can ask."""
    found = [Method("", "")]
    for score in ("hard-student", "easy-reference", "learnability"):
        found += [Method(score, name) for name in (references if SCORES[score].reference else [""])]
    return found


class Figures:
    """Everything that was measured, by experiment and key, in a file that is written after each.

    Args:
        path: the file; may be missing.
        settings: what the figures depend on.

    Raises:
        AcedError: the file's figures were made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {"settings": settings, "experiments": {}}
        if path.is_file():
            self.content = json.loads(path.read_text(encoding="utf-8"))
            if self.content["settings"] != json.loads(json.dumps(settings)):
                raise AcedError(
                    f"{path} has figures of other settings, {self.content['settings']}: choose another --out."
                )

    def kept(
        self, experiment: str, key: str, make: Callable[[], dict[str, Any]], again: bool = False
    ) -> dict[str, Any]:
        """What stands under a key; made and written first if it is missing, or `again`."""
        figures = self.content["experiments"].setdefault(experiment, {})
        if again or key not in figures:
            figures[key] = make()
            write_atomic(self.path, json.dumps(self.content, indent=1) + "\n")
            print(f"{experiment}: {key}: {_short(figures[key])}", flush=True)
        return figures[key]


def _short(figures: dict[str, Any]) -> str:
    flat = figures | figures.get("scores", {}) | figures.get("cost", {})
    return ", ".join(f"{name} {value:.4g}" for name, value in flat.items() if isinstance(value, float))


# -- one experiment ------------------------------------------------------------------------------------------


class Runner:
    """Measures one experiment.

    Args:
        experiment: which.
        figures: where everything is kept.
        steps: of a student.
        work: folder of the references' losses.
    """

    def __init__(self, experiment: Experiment, figures: Figures, steps: int, work: Path) -> None:
        self.experiment, self.figures, self.steps, self.work = experiment, figures, steps, work
        self.methods = methods(list(experiment.references))
        self.losses: dict[str, Tensor] = {}

    def kept(self, key: str, make: Callable[[], dict[str, Any]], again: bool = False) -> dict[str, Any]:
        """See `Figures.kept`."""
        return self.figures.kept(self.experiment.name, key, make, again)

    def run(self, seeds: Sequence[int]) -> None:
        """Choose settings, make the references, then train every method with every seed."""
        self.check()
        lr = self.chosen_rate()
        for name in self.experiment.references:
            self.losses[name] = self.reference(name, lr)
        ratio = self.kept("ratio", lambda: self.timed(lr))["ratio"]
        temperatures = {method: self.chosen_temperature(method, lr) for method in self.methods if method.score}
        for seed in seeds:
            for method in self.methods:
                plan = Plan(self.steps, lr, score=method.score, temperature=temperatures.get(method, 0.0), seed=seed)
                self.trained(f"samples/{method.name}/{seed}", method, plan)
                # The reference's choice costs next to nothing, so it has the time of random batches.
                budget, steps = ("short", self.steps / ratio) if method.asks_student else ("long", self.steps * ratio)
                self.trained(f"{budget}/{method.name}/{seed}", method, replace(plan, steps=max(1, round(steps))))

    def check(self) -> None:
        """Note what the figures are of.

        Raises:
            AcedError: those that are there are of something else.
        """
        own = {"goal": self.experiment.goal, "sign": self.experiment.sign, "steps": self.steps}
        own["pool"] = len(self.experiment.pool)
        found = self.kept("facts", lambda: own)
        if found != own:
            raise AcedError(f"{self.figures.path} has figures of {found}, not of {own}: choose another --out.")

    def trained(self, key: str, method: Method, plan: Plan, test: bool = True) -> dict[str, Any]:
        """Figures of one training; made again if those that are there are of another plan."""

        def make() -> dict[str, Any]:
            return self.train(method, plan, test)

        found = self.kept(key, make)
        return found if found["plan"] == asdict(plan) else self.kept(key, make, again=True)

    def train(self, method: Method, plan: Plan, test: bool) -> dict[str, Any]:
        """Train a student; its plan, cost and scores."""
        student = self.experiment.build(plan.seed)
        cost = train(student, self.experiment.pool, plan, self.losses.get(method.reference))
        scores = (self.experiment.test if test else self.experiment.validate)(student)
        return {"plan": asdict(plan), "cost": asdict(cost), "scores": scores}

    def reference(self, name: str, lr: float) -> Tensor:
        """`[n]` a reference's losses of the pool, from the file of an earlier call if it is there."""
        path = self.work / f"{self.experiment.name} {name} {self.steps}.safetensors".replace(" ", "-")
        found: list[Tensor] = []

        def make() -> dict[str, Any]:
            student = self.experiment.build(CHOOSING_SEED)
            plan = Plan(REFERENCE * self.steps, lr, seed=CHOOSING_SEED)
            steps = fitted(student, self.experiment.references[name], self.experiment.validation, plan)
            found.append(measured(student, self.experiment.pool)[0])
            save_tensors_atomic(path, {"losses": found[0]})
            of_pool = found[0][self.experiment.pool.sound].mean(), found[0][~self.experiment.pool.sound].mean()
            return {
                "samples": len(self.experiment.references[name]),
                "steps": steps,
                "scores": self.experiment.test(student),
                "loss of sound samples": float(of_pool[0]),
                "loss of others": float(of_pool[1]),
            }

        self.kept(f"reference/{name}", make, again=not path.is_file())
        return found[0] if found else load_file(path)["losses"]

    def chosen_rate(self) -> float:
        """The rate with which random batches do best on validation."""

        def tried(rate: float) -> dict[str, Any]:
            plan = Plan(max(1, self.steps // 2), rate, seed=CHOOSING_SEED)
            return self.trained(f"rate/{rate:g}", Method("", ""), plan, test=False)

        return self.best({rate: tried(rate) for rate in RATES})

    def chosen_temperature(self, method: Method, lr: float) -> float:
        """The temperature with which a method does best on validation."""

        def tried(temperature: float) -> dict[str, Any]:
            steps = max(1, self.steps // 2)
            plan = Plan(steps, lr, score=method.score, temperature=temperature, seed=CHOOSING_SEED)
            return self.trained(f"temperature/{method.name}/{temperature:g}", method, plan, test=False)

        return self.best({temperature: tried(temperature) for temperature in TEMPERATURES})

    def best(self, tried: dict[float, dict[str, Any]]) -> float:
        """The setting with the best score; the first of equal ones."""
        goal, sign = self.experiment.goal, self.experiment.sign
        return max(tried, key=lambda setting: sign * tried[setting]["scores"][goal])

    def timed(self, lr: float) -> dict[str, Any]:
        """How many steps of random batches take the processor time of a step of learnability; both take turns."""
        students = {score: self.experiment.build(CHOOSING_SEED) for score in ("", "learnability")}
        reference = next(iter(self.losses.values()))
        seconds: dict[str, list[float]] = {score: [] for score in students}
        for turn in range(TURNS):
            for score, student in students.items():
                plan = Plan(4, lr, score=score, seed=turn)
                seconds[score].append(train(student, self.experiment.pool, plan, reference).step_seconds)
        random, learnability = (statistics.median(values) for values in seconds.values())
        return {"random": random, "learnability": learnability, "ratio": max(1.0, learnability / random)}


# -- the table -----------------------------------------------------------------------------------------------


def tables(content: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown: for each experiment a table of the methods, what was chosen, and its references.

    Scores and costs are those at equal samples. For each budget, random batches have their own score, the other methods
    their difference to it, seed by seed, and in how many seeds they are better.
    """
    for name, figures in content["experiments"].items():
        rows = _rows(figures)
        if not rows:
            continue
        facts = figures["facts"]
        scores = list(next(iter(rows.values()))[0]["scores"])
        budgets = [budget for budget in BUDGETS if (budget, RANDOM) in rows]
        heads = ["temperature", "trained", "loaded", "seconds", "sound, %", *scores]
        yield f"### {name.capitalize()}\n"
        yield "| " + " | ".join(["method", *heads, *(f"{facts['goal']}, {budget}" for budget in budgets)]) + " |"
        yield "| --- |" + " ---: |" * (len(heads) + len(budgets))
        for (budget, method), runs in rows.items():
            if budget == budgets[0]:
                compared = [_compared(rows, each, method, facts) for each in budgets]
                yield "| " + " | ".join([*_cells(method, runs, scores), *compared]) + " |"
        yield ""
        yield from _chosen(figures, facts["goal"])
        yield ""


Rows = dict[tuple[str, str], list[dict[str, Any]]]
"""Runs by budget and method."""


def _rows(figures: dict[str, Any]) -> Rows:
    """The runs of every budget of which random batches are there."""
    runs: Rows = {}
    for key, run in figures.items():
        kind, _, rest = key.partition("/")
        runs.setdefault((kind, rest.rpartition("/")[0]), []).append(run)
    rows = {}
    for budget, (without, asking) in BUDGETS.items():
        for kind, method in runs if (without, RANDOM) in runs else ():
            if kind == "samples":
                score = method.partition(" ")[0]
                asks = score != RANDOM and bool(SCORES[score].student)
                rows[budget, method] = runs.get((asking if asks else without, method), [])
    return {row: found for row, found in rows.items() if found}


def _cells(method: str, runs: list[dict[str, Any]], scores: Sequence[str]) -> list[str]:
    cost = {name: statistics.fmean(run["cost"][name] for run in runs) for name in runs[0]["cost"]}
    temperature = "–" if method == RANDOM else f"{runs[0]['plan']['temperature']:g}"
    found = [method, temperature, f"{cost['trained']:,.0f}", f"{cost['loaded']:,.0f}"]
    found += [f"{cost['seconds']:.1f}", f"{100 * cost['sound']:.0f}"]
    return found + [_spread([run["scores"][name] for run in runs], name) for name in scores]


def _compared(rows: Rows, budget: str, method: str, facts: dict[str, Any]) -> str:
    """A method's score less that of random batches with the same budget, seed by seed."""
    goal = facts["goal"]
    runs, base = (
        {run["plan"]["seed"]: run["scores"][goal] for run in rows.get((budget, one), [])} for one in (method, RANDOM)
    )
    if method == RANDOM:
        return _spread(list(base.values()), goal)
    found = [value - base[seed] for seed, value in runs.items() if seed in base]
    if not found:
        return "–"
    return f"{_spread(found, goal, '+')} ({sum(facts['sign'] * one > 0 for one in found)} of {len(found)})"


def _spread(values: Sequence[float], name: str, sign: str = "") -> str:
    digits = 3 if name in ("loss", "cider") else 1
    text = f"{statistics.fmean(values):{sign}.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def _chosen(figures: dict[str, Any], goal: str) -> Iterator[str]:
    for what in ("rate", "temperature"):
        tried = [(key.partition("/")[2], run["scores"][goal]) for key, run in figures.items() if key.startswith(what)]
        yield f"{what.capitalize()} on validation ({goal}): " + "; ".join(f"{k} {v:.3f}" for k, v in tried) + ".  "
    for key, one in figures.items():
        if key.startswith("reference/"):
            scores = ", ".join(f"{name} {value:.3f}" for name, value in one["scores"].items())
            yield (
                f"Reference {key.partition('/')[2]}: {one['samples']:,} samples, {one['steps'][0]:,} steps; {scores}; "
                f"its mean loss of sound samples of the pool {one['loss of sound samples']:.3f}, of the others "
                f"{one['loss of others']:.3f}.  "
            )
    if "ratio" in figures:
        yield f"A step whose student scores the super-batch takes {figures['ratio']['ratio']:.2f} times a random one."


# -- the command ---------------------------------------------------------------------------------------------


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", choices=tuple(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--photos", type=Path, default=Path("data/pool"), help="the noisy pool")
    parser.add_argument("--curated", type=Path, default=Path("data/curated"), help="trusted pairs")
    parser.add_argument("--more", type=Path, default=Path("data/more"), help="photos whose true classes are trusted")
    parser.add_argument("--eval", type=Path, default=Path("data/eval"), help="folder of tasks")
    parser.add_argument("--out", type=Path, default=OUT, help="the figures, in JSON")
    parser.add_argument("--work", type=Path, default=Path("runs/objectives"), help="indexes and references' losses")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spoilt", type=float, default=0.5, help="share of wrong classes")
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps")
    parser.add_argument(
        "--scenes", type=int, nargs=3, default=[12000, 6000, 600], help="scenes in the pool, trusted, and in each test"
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or print the table of what was measured."""
    options = parsed(arguments)
    set_threads(options.threads)
    settings = {
        "spoilt": options.spoilt,
        "share": options.share,
        "threads": options.threads,
        "rates": RATES,
        "temperatures": TEMPERATURES,
    }
    try:
        figures = Figures(options.out, settings)
        if options.what == "run":
            for name in options.only:
                steps = max(2, round(STEPS[name] * options.share))
                Runner(EXPERIMENTS[name](options), figures, steps, options.work).run(options.seeds)
    except AcedError as error:
        sys.exit(f"objectives.py: {error}")
    print("\n".join(tables(figures.content)))


if __name__ == "__main__":
    main()
