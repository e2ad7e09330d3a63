"""The options of the laboratory's commands, demo and lit; light, because the command line imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aced.runtime.declared_options import Option, Threads
from aced.runtime.paths import expand_path


@dataclass(frozen=True)
class DemoOptions:
    """The options of `aced demo`.

    Attributes:
        out: folder of the demo; an earlier demo's folder is cleared, any other folder that is not empty is refused.
        methods: comma-separated row names, `all`, or None for the default rows.
        seeds: number of seeds, from 0; each trains every row.
        quick: whether everything is scaled down.
        threads: CPU threads.
        split: `test`, or `validation` while settings are being chosen.
        train_reference: whether to train the reference anew; by default its weights come with the package.
        keep_reference: folder to keep that reference in, in half precision; None for none.
        show: whether to list the rows and do nothing else.
    """

    out: Annotated[Path, Option("Folder for results.json, report.html and the runs.")] = Path("runs/demo")
    methods: Annotated[
        str | None, Option("Rows to run, separated by commas, or 'all'; --list shows them.", show_default=False)
    ] = None
    seeds: Annotated[int, Option("Train every row with this many seeds.")] = 1
    quick: Annotated[bool, Option("Under a minute: every step is real, but too short to compare methods.")] = False
    threads: Threads = 0
    split: Annotated[str, Option("Score on 'test', or 'validation' to choose settings.")] = "test"
    train_reference: Annotated[bool, Option("Train the reference anew instead of using the package's weights.")] = False
    keep_reference: Annotated[
        Path | None,
        Option("With --train-reference: folder for its weights and its cost.", show_default=False),
    ] = None
    show: Annotated[bool, Option("Only list the rows that --methods can name.", name="list")] = False


@dataclass(frozen=True)
class LitOptions:
    """The options of `aced lit`.

    Attributes:
        run: a run folder, a model folder, or an architecture's name with `checkpoint`.
        data: see `aced.lab.lit.sources.load_data`.
        out: a new folder; None for `lit` in the run's folder.
        layers, width: of the decoder, see `DecoderShape`.
        steps, batch, lr: of its training, see `DecoderSettings`.
        seed: of its initial weights, the order of the examples and the dropout.
        beams: width of the beam search for captions; 1 turns it off.
        where: `FIELD=VALUE`: only these samples of the tars are used for training.
        split: `test`, or `validation` to choose settings.
        cache: folder of tokens, indexes and the blind decoder's texts; None for `lit-cache` beside the model.
        checkpoint: weights, or their tag, for an architecture that is named instead of a run.
        threads: CPU threads; 0 measures which number is fastest.
        scenes: numbers of training and test scenes.
    """

    run: Annotated[
        str,
        Option("A run or model folder, or an architecture's name with --checkpoint.", argument=True, path=expand_path),
    ]
    data: Annotated[
        Sequence[str],
        Option(
            "'scenes', an easy-VQA folder, caption tars, or a retrieval task for testing; repeatable.",
            path=expand_path,
        ),
    ] = ()
    out: Annotated[Path | None, Option("A new folder; default: RUN/lit.", show_default=False)] = None
    layers: Annotated[int, Option("Layers of the decoder, 2 to 6.")] = 2
    width: Annotated[int, Option("Width of the decoder, a multiple of 4.")] = 96
    steps: Annotated[int, Option("Training steps.")] = 600
    batch: Annotated[int, Option("Examples per step, split evenly over the training sets.")] = 96
    lr: Annotated[float, Option("Peak learning rate.")] = 3e-3
    seed: Annotated[int, Option("Seed of the decoder and its training.", least=0)] = 0
    beams: Annotated[int, Option("Width of the beam search for captions; 1 is greedy.")] = 4
    where: Annotated[
        str | None,
        Option("Train only on samples whose json has FIELD=VALUE.", show_default=False),
    ] = None
    split: Annotated[str, Option("Test scenes: 'test', or 'validation' to choose settings.")] = "test"
    cache: Annotated[
        Path | None, Option("Folder of cached patch tokens; default: RUN/lit-cache.", show_default=False)
    ] = None
    checkpoint: Annotated[Path | None, Option("Weights of an architecture: a file or a tag.", show_default=False)] = (
        None
    )
    threads: Threads = 0
    scenes: tuple[int, int] = (6000, 600)
