"""What the laboratory's commands, demo and lit, can be asked for; light, so that the command line may read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aced.runtime.declared_options import Option, Threads
from aced.runtime.paths import expand_path


@dataclass(frozen=True)
class DemoOptions:
    """What `aced demo` was asked for.

    Attributes:
        out: folder of the demo; one that an earlier demo made is cleared, another one that is not empty refused.
        methods: comma-separated row names, `all`, or None for the default rows.
        seeds: number of seeds, from 0; each trains every row.
        quick: whether everything is scaled down.
        threads: CPU threads.
        split: `test`, or `validation` while settings are being chosen.
        train_reference: whether the reference is trained anew; by default its weights come with the package.
        keep_reference: folder that the reference is then kept in, in half precision; None for none.
        show: whether the rows are listed, and nothing else is done.
    """

    out: Annotated[Path, Option("Folder for results.json, report.html and the runs.")] = Path("runs/demo")
    methods: Annotated[
        str | None, Option("Rows to run, separated by commas, or 'all'; --list shows them.", show_default=False)
    ] = None
    seeds: Annotated[int, Option("Train every row with this many seeds.")] = 1
    quick: Annotated[bool, Option("Under a minute: everything for real, but too short to tell methods apart.")] = False
    threads: Threads = 0
    split: Annotated[str, Option("Score on 'test', or on 'validation' to choose settings by.")] = "test"
    train_reference: Annotated[bool, Option("Train the reference anew, instead of taking the package's weights.")] = (
        False
    )
    keep_reference: Annotated[
        Path | None,
        Option("With --train-reference: folder for its weights and the record of its cost.", show_default=False),
    ] = None
    show: Annotated[bool, Option("List the rows that --methods can name, and do nothing.", name="list")] = False


@dataclass(frozen=True)
class LitOptions:
    """What `aced lit` was asked for.

    Attributes:
        run: a run folder, a model folder, or an architecture's name with `checkpoint`.
        data: what `aced.lab.lit.sources.load_data` knows.
        out: a new folder; None for `lit` in the run's.
        layers, width: of the decoder, see `DecoderShape`.
        steps, batch, lr: of its training, see `DecoderSettings`.
        seed: of its initial weights, the order of the examples and the dropout.
        beams: width of the beam search for captions; 1 leaves it out.
        where: `FIELD=VALUE`: only those samples of the tars are trained on.
        split: `test`, or `validation` to choose settings by.
        cache: folder of tokens, indexes and the blind decoder's texts; None for `lit-cache` beside the model.
        checkpoint: weights, or their tag, for an architecture that is named instead of a run.
        threads: CPU threads; 0 measures what is quickest.
        scenes: numbers of training and of test scenes.
    """

    run: Annotated[
        str,
        Option("A run or model folder, or an architecture's name with --checkpoint.", argument=True, path=expand_path),
    ]
    data: Annotated[
        Sequence[str],
        Option(
            "'scenes', a folder of easy-VQA, caption tars, or a retrieval task to test on; repeat it.",
            path=expand_path,
        ),
    ] = ()
    out: Annotated[Path | None, Option("A new folder; default: RUN/lit.", show_default=False)] = None
    layers: Annotated[int, Option("Layers of the decoder, 2 to 6.")] = 2
    width: Annotated[int, Option("Width of the decoder, a multiple of 4.")] = 96
    steps: Annotated[int, Option("Training steps.")] = 600
    batch: Annotated[int, Option("Examples of a step, shared evenly by the training sets.")] = 96
    lr: Annotated[float, Option("Peak learning rate.")] = 3e-3
    seed: Annotated[int, Option("Seed of the decoder and its training.", least=0)] = 0
    beams: Annotated[int, Option("Width of the beam search for captions; 1 is greedy.")] = 4
    where: Annotated[
        str | None,
        Option("FIELD=VALUE of the json of the tars' samples: only those are trained on.", show_default=False),
    ] = None
    split: Annotated[str, Option("Test scenes: 'test', or 'validation' to choose settings by.")] = "test"
    cache: Annotated[
        Path | None, Option("Folder of cached patch tokens; default: RUN/lit-cache.", show_default=False)
    ] = None
    checkpoint: Annotated[Path | None, Option("Weights, a file or a tag, of an architecture.", show_default=False)] = (
        None
    )
    threads: Threads = 0
    scenes: tuple[int, int] = (6000, 600)
