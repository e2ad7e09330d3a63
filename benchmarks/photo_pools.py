"""Pools and tasks for the study on photos, made from labelled pools: each can be made again to the byte.

    python benchmarks/photo_pools.py share --pool data/webmix --out data/pools
    python benchmarks/photo_pools.py validation --curated data/curated --eval data/eval --out data/validation
    python benchmarks/photo_pools.py domains --pool data/webmix \\
        --domains data/domains/brain_mri data/domains/rsscn7 data/domains/neu_det --out data/pools/domains
    python benchmarks/photo_pools.py domains --apart --rest data/pools/domains-rest --pool data/webmix \\
        --domains data/domains/brain_mri data/domains/rsscn7 data/domains/neu_det --out data/pools/domains-apart
    python benchmarks/photo_pools.py kept runs/a runs/b

**share** makes versions of one pool that differ in their captions alone. All have the same pictures in the same order:
the clean pairs of `--pool`, without near-copies. Where p % are to be clean, the captions of the others, drawn at
random, are replaced: 70 % by that of another pair of the same collection with another class (a sentence: of another
photo), `kind` shuffled, and 30 % by one of the pool's junk captions, `kind` junk. What is spoilt at 75 % is spoilt at
50 % too, and in the same way. `--pairs` takes a random subset of the clean pairs.

**validation** makes tasks like those of `--eval` from curated pairs, on which settings are chosen: class names and
templates are the task's own, the pictures are curated ones with a true label. A class without pictures stays, so that
there is as much to choose from as in the task. Sentences make a retrieval task with one caption a picture. No picture
of `--eval` is read, and no student may train on the curated ones. A reference that was trained on them has seen them:
its own score on these tasks says nothing.

**domains** mixes pairs of other domains, `--percent` of the pool each, into a pool, in random order. `domain` in the
json is the name of the pair's folder, `photos` for the pool's own; `domain_kind` is both, as `rsscn7/clean`. With
`--apart` each domain's pairs, the same ones, are a folder of tars in `--out`: a config can name them as sources.
`--rest` also writes the clean pairs of the domains that the pool did not get, which a reference may be trained on.

**kept** prints what runs trained on. A run with `data.kind_field=domain_kind` counts its candidates and trained pairs
by that field (`kinds` in metrics.jsonl); `data.kind_field=domain` shows the domains in `aced report`. The `clean_share`
of results.json is 0 with either: `kept` gives the share of sound pairs.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pool_tars import TAR, Pair, read_pairs, write_pool, write_task
from rich.console import Console

from aced.errors import AcedError
from aced.evaluate.tar_samples import read_lines as task_lines
from aced.pool.source import SOUND_KINDS
from aced.runs.record_files import read_lines as run_lines
from aced.runs.records import StepLine

JUNK = 30
"""Percent of the spoilt captions that are junk; the others are shuffled."""
PHOTOS = "photos"
"""The domain of the pairs of `--pool`."""


# -- share -------------------------------------------------------------------------------------------------------------


def draws(seed: int, what: int) -> np.random.Generator:
    """Random numbers for one purpose, which do not depend on how many another one took."""
    return np.random.default_rng([seed, what])


def some_of(pairs: Sequence[Pair], count: int, generator: np.random.Generator, where: str) -> list[Pair]:
    """Random pairs, in the order that they had.

    Raises:
        AcedError: there are not so many.
    """
    if not 0 < count <= len(pairs):
        raise AcedError(f"{where} has {len(pairs):,} pairs to take from: {count:,} cannot be taken.")
    return [pairs[at] for at in sorted(generator.permutation(len(pairs))[:count].tolist())]


def spoilt(pairs: Sequence[Pair], junk: Sequence[str], seed: int) -> Iterator[tuple[int, Pair]]:
    """All pairs with their captions replaced, in the order in which a pool is spoilt, each with its place.

    Of the first n, `JUNK` percent are junk, rounded down, whatever n is.

    Args:
        pairs: clean ones.
        junk: captions, each of which is taken once before any is taken again.
        seed: of order and captions.

    Raises:
        AcedError: there are no junk captions, or a collection has a single class.
    """
    if not junk:
        raise AcedError("--pool has no junk captions, which a part of the spoilt pairs gets.")
    scraps = draws(seed, 2).permutation(len(junk)).tolist()
    generator, sources = draws(seed, 3), {pair.about["source"] for pair in pairs}
    alike = {source: [pair for pair in pairs if pair.about["source"] == source] for source in sources}
    for rank, at in enumerate(draws(seed, 1).permutation(len(pairs)).tolist()):
        pair, taken = pairs[at], rank * JUNK // 100
        if (rank + 1) * JUNK // 100 > taken:
            kind, caption = "junk", junk[scraps[taken % len(scraps)]]
        else:
            kind, caption = "shuffled", other_caption(pair, alike[pair.about["source"]], generator)
        # A uid stands for a picture with its caption, as in DataComp.
        uid = hashlib.sha256(f"{pair.about.get('uid')} {caption}".encode()).hexdigest()[:32]
        yield at, pair.but(uid=uid, caption=caption, kind=kind, true_caption=pair.caption)


def other_caption(pair: Pair, alike: Sequence[Pair], generator: np.random.Generator) -> str:
    """A caption of another class among the pairs of a collection, or of another photo where there are no classes."""
    label = pair.about["label"]
    for at in generator.permutation(len(alike)).tolist():
        other = alike[at]
        if other.caption != pair.caption and (label is None or other.about["label"] != label):
            return other.caption
    raise AcedError(f"All captions of {pair.about['source']} fit {pair.about['key']}: none can replace its own.")


def share(options: argparse.Namespace, console: Console) -> None:
    """Write a pool for each clean share."""
    found = read_pairs(options.pool)
    clean = [pair for pair in found if pair.about["kind"] == "clean"]
    count = len(clean) if options.pairs is None else options.pairs
    clean = some_of(clean, count, draws(options.seed, 0), "--pool")
    junk = [pair.caption for pair in found if pair.about["kind"] == "junk"]
    replaced = list(spoilt(clean, junk, options.seed)) if min(options.shares) < 100 else []
    for percent in options.shares:
        version = list(clean)
        for at, pair in replaced[: round(len(clean) * (100 - percent) / 100)]:
            version[at] = pair
        folder = options.out / f"share-{percent}"
        write_pool(folder, version)
        tell(console, folder, Counter(pair.about["kind"] for pair in version))


# -- validation --------------------------------------------------------------------------------------------------------


def validation(options: argparse.Namespace, console: Console) -> None:
    """Write a task for each collection of the curated pairs.

    Raises:
        AcedError: a collection has no task of its name, or a label is not among the task's classes.
    """
    pairs = [pair for pair in read_pairs(options.curated) if pair.about["kind"] == "clean"]
    for source in sorted({str(pair.about["source"]) for pair in pairs}):
        own, task = [pair for pair in pairs if pair.about["source"] == source], options.eval / f"wds_{source}"
        folder = options.out / task.name
        kind = task / "dataset_type.txt"
        if kind.is_file() and task_lines(kind) == ["retrieval"]:
            write_task(folder, [(pair.image, pair.caption) for pair in own], "txt", {kind.name: kind.read_bytes()})
            tell(console, folder, Counter(retrieval=len(own)))
            continue
        classes = task_lines(task / "classnames.txt")
        unknown = [pair.about["label"] for pair in own if pair.about["label"] not in classes]
        if unknown:
            raise AcedError(f"{task / 'classnames.txt'} has no class {unknown[0]!r}, which curated pairs have.")
        pictures = [(pair.image, str(classes.index(pair.about["label"]))) for pair in own]
        task_lines(task / "zeroshot_classification_templates.txt")  # which says so if there is none
        names = ("classnames.txt", "zeroshot_classification_templates.txt")
        write_task(folder, pictures, "cls", {name: (task / name).read_bytes() for name in names})
        empty = len(set(classes)) - len({pair.about["label"] for pair in own})
        tell(
            console, folder, Counter({"pictures": len(own), "classes": len(classes), "classes without pictures": empty})
        )


# -- domains -----------------------------------------------------------------------------------------------------------


def domains(options: argparse.Namespace, console: Console) -> None:
    """Write a pool with a few pairs of each domain.

    Raises:
        AcedError: there is no room for so many, a domain has too few, two have one name, or nothing is left for
            `--rest`.
    """
    percent, many = options.percent, len(options.domains)
    if not 0 < percent * many < 100:
        raise AcedError(f"--percent {percent:g} of each of {many} domains leaves no room for the pool's own pairs.")
    names = [PHOTOS, *(folder.resolve().name for folder in options.domains)]
    if len(set(names)) < len(names):
        raise AcedError(f"--domains makes the domains {', '.join(names)}: give each folder another name.")
    pairs = [of_domain(pair, PHOTOS) for pair in read_pairs(options.pool)]
    count, rest = round(len(pairs) * percent / (100 - percent * many)), list[Pair]()
    for number, folder in enumerate(options.domains):
        found = read_pairs([str(folder)])
        taken = some_of(found, count, draws(options.seed, number), str(folder))
        pairs += [of_domain(pair, names[number + 1]) for pair in taken]
        rest += [of_domain(pair, names[number + 1]) for pair in left_over(found, taken)]
    if options.rest is not None and not rest:
        raise AcedError(f"--rest: the pool has taken every clean pair of {' and '.join(names[1:])}; lower --percent.")
    mixed, first = [pairs[at] for at in draws(options.seed, many).permutation(len(pairs)).tolist()], 0
    parts = {options.out / name: [p for p in mixed if p.about["domain"] == name] for name in names}
    for folder, part in parts.items() if options.apart else [(options.out, mixed)]:
        write_pool(folder, part, first)
        first += -(-len(part) // TAR)
        tell(console, folder, Counter(pair.about["domain_kind"] for pair in part))
    if options.rest is not None:
        write_pool(options.rest, rest, first)
        tell(console, options.rest, Counter(pair.about["domain_kind"] for pair in rest))


def left_over(found: Sequence[Pair], taken: Sequence[Pair]) -> list[Pair]:
    """The clean pairs that were not taken, without those whose picture was: it must not be in both."""
    pictures = {pair.image for pair in taken}
    return [pair for pair in found if pair.about["kind"] == "clean" and pair.image not in pictures]


def of_domain(pair: Pair, name: str) -> Pair:
    """The pair with its domain, alone and beside its kind."""
    return pair.but(domain=name, domain_kind=f"{name}/{pair.about['kind']}")


def kept(options: argparse.Namespace, console: Console) -> None:
    """Print the shares of the domains among the candidates and the trained pairs of runs, in Markdown."""
    rows = ["| run | domain | candidates, % | sound, % | trained, % | sound, % | trained / candidates |"]
    rows.append("| --- | --- |" + " ---: |" * 5)
    for run in options.runs:
        rows += kept_of(run)
    for row in rows:
        console.print(row, markup=False, highlight=False, soft_wrap=True)


def kept_of(run: Path) -> Iterator[str]:
    """Rows of the table of `kept` for a run, and under `all` its whole.

    Raises:
        AcedError: the run did not count its pairs by `domain_kind`.
    """
    candidates, trained = Counter[str](), Counter[str]()
    for line in run_lines(run / "metrics.jsonl", StepLine):
        if line.kinds is not None:
            candidates.update({kind: int(count) for kind, count in line.kinds.pool.items()})
            trained.update({kind: int(count) for kind, count in line.kinds.chosen.items()})
    if not candidates or any("/" not in kind for kind in candidates):
        raise AcedError(f"{run} has no counts by domain and kind: run it with data.kind_field=domain_kind.")
    for domain in [*sorted({kind.partition("/")[0] for kind in candidates}), "all"]:
        (given, sound), (taken, good) = (counted(counts, domain) for counts in (candidates, trained))
        shares = [100 * given / candidates.total(), 100 * sound / given]
        shares += [100 * taken / trained.total(), 100 * good / taken if taken else float("nan")]
        ratio = shares[2] / shares[0]
        yield f"| {run.name} | {domain} | " + " | ".join(f"{one:.2f}" for one in [*shares, ratio]) + " |"


def counted(counts: Counter[str], domain: str) -> tuple[int, int]:
    """Pairs of a domain, or of `all`, and how many of them are sound."""
    own = {kind: n for kind, n in counts.items() if domain in ("all", kind.partition("/")[0])}
    return sum(own.values()), sum(n for kind, n in own.items() if kind.partition("/")[2] in SOUND_KINDS)


# -- the command line --------------------------------------------------------------------------------------------------


def tell(console: Console, folder: Path, counts: Counter[str]) -> None:
    """Say what was written."""
    what = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    console.print(f"{folder}: {what}", markup=False, highlight=False, soft_wrap=True)


def percentage(word: str) -> int:
    """A whole number from 0 to 100."""
    if not (word.isascii() and word.isdecimal() and int(word) <= 100):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 0 to 100")
    return int(word)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for make in (share, validation, domains):
        command = commands.add_parser(make.__name__, help=(make.__doc__ or "").partition("\n")[0])
        command.set_defaults(make=make)
        command.add_argument("--out", type=Path, required=True, help="the folder to write")
        if make is not validation:
            command.add_argument("--pool", nargs="+", required=True, help="labelled tars, or folders of them")
            command.add_argument("--seed", type=int, default=0)
        if make is share:
            command.add_argument(
                "--shares", nargs="+", type=percentage, default=[100, 75, 50, 25, 10], help="clean, in %%"
            )
            command.add_argument("--pairs", type=int, help="clean pairs to take; none: all")
        elif make is validation:
            command.add_argument("--curated", nargs="+", required=True, help="tars of clean labelled pairs")
            command.add_argument("--eval", type=Path, required=True, help="folder of the tasks to mirror")
        else:
            command.add_argument("--domains", nargs="+", type=Path, required=True, help="a folder of tars for each")
            command.add_argument("--percent", type=float, default=2.0, help="of the pool, each domain")
            command.add_argument("--apart", action="store_true", help="a folder in --out for each domain")
            command.add_argument("--rest", type=Path, help="folder for the domains' other clean pairs")
    command = commands.add_parser("kept", help=(kept.__doc__ or "").partition("\n")[0])
    command.set_defaults(make=kept)
    command.add_argument("runs", nargs="+", type=Path, help="folders of runs with data.kind_field=domain_kind")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and make."""
    options = parsed(arguments)
    try:
        options.make(options, Console())
    except AcedError as error:
        sys.exit(f"photo_pools.py: {error}")


if __name__ == "__main__":
    main()
