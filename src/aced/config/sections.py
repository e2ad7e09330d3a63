"""The sections of a run's config and their keys: typed, bounded and documented once.

The sentence below each field is its documentation; `aced config` prints them all.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aced.config.resume import FREE, MODEL, PLACE, ROUNDING
from aced.config.types import (
    Beta,
    CountOrAuto,
    Fraction,
    OneOrAuto,
    PathOrNone,
    Paths,
    PathText,
    PlaceText,
    Positive,
    Rate,
    Seed,
    SwitchOrAuto,
    TrackerNames,
    Words,
)


class Section(BaseModel):
    """A table of the TOML file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunSection(Section):
    """The run itself."""

    out: Annotated[PathText, FREE] = "runs/train"
    """Folder of the run: config, metrics, checkpoints, results."""
    imports: Annotated[Words, FREE] = []
    """Modules of yours that register methods, losses and the like, as in `import my_module`; they are looked for in the
    current folder too."""
    seed: Seed = 0
    """Seed of the initial weights, the order of the data and the draws."""
    device: Annotated[str, ROUNDING] = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    threads: Annotated[int, Field(ge=0, le=1024), ROUNDING] = 0
    """CPU threads; 0 chooses. Bit-equal repetition needs the same number, so it is recorded."""
    log_every: Annotated[Positive, FREE] = 10
    """Steps between two lines of metrics.jsonl."""
    trackers: Annotated[TrackerNames, FREE] = []
    """Who gets these lines too: `tensorboard` (into the run's folder), `wandb`, `trackio`, or one
    that run.imports registers; one, or a list."""
    checkpoint_every: Annotated[int, Field(ge=0), FREE] = 500
    """Steps between two checkpoints; 0 writes none by the number of steps, and one at the end in any case."""
    checkpoint_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False), FREE] = 15.0
    """Minutes between two checkpoints, beside those of `checkpoint_every`; 0 writes none by the clock."""
    keep: Annotated[Positive, FREE] = 2
    """Newest checkpoints that are kept; an older one goes once a newer one is complete."""
    keep_best: Annotated[bool, FREE] = False
    """Keep the model with the best average of those that `eval.every` evaluates, in `best/`."""
    parallel: Annotated[Literal["ddp", "fsdp"], ROUNDING] = "ddp"
    """How several processes share the student: each holds it (DDP), or a part of its weights and moments (FSDP2)."""
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False), FREE] = 300.0
    """Seconds that processes of a job wait for each other within a step (in the first one at least 30 minutes), and for
    loading processes that do nothing, before it ends; one that dies ends it at once."""


class DataSection(Section):
    """The pool that the student learns from."""

    shards: Annotated[Paths, PLACE] = []
    """Tars in webdataset/img2dataset/DataComp layout: files, folders, globs, `{00000..00009}` ranges. Empty: scenes."""
    source: str = ""
    """A source that run.imports registers, in the place of tars and scenes."""
    caption: str = "txt"
    """Where captions are: `txt`, or `json:FIELD` for a field of the sample's .json."""
    caption_choice: Literal["whole", "first", "random"] = "whole"
    """Of several captions (lines of the .txt, entries of a .json's list): the `first`, or a `random` one each epoch."""
    weights: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = []
    """Share of each entry of `shards` in every super-batch, in any unit; empty: every pair counts alike."""
    locality: CountOrAuto = "auto"
    """K: how many tars a stream reads at a time, whose pairs are mixed; 0 mixes all pairs of the pool. `auto`: 0 up to
    20 million pairs and 10,000 tars, else 16."""
    streams: OneOrAuto = "auto"
    """C: with `locality`, how many streams of tars make a super-batch; the numbers of processes that divide C can share
    the run. `auto`: as many as there are processes, times a power of 2, up to 8."""
    bad_tars: Annotated[Literal["stop", "skip"], FREE] = "stop"
    """What a damaged tar does, or one that is lost under the run: stop it, or leave out what cannot be read and count
    it."""
    lost_tars: Annotated[Literal["refuse", "allow"], FREE] = "refuse"
    """What --resume does where tars of the run are gone or have changed: refuse, or go on without their samples."""
    max_bad_share: Annotated[Fraction, FREE] = 0.01
    """Largest share of unreadable samples in the pool; a run stops once those it read show more, beyond chance. Lost
    tars do not count."""
    spool_dir: Annotated[PathOrNone, FREE] = ""
    """Folder that addresses (`s3://`, `https://`, ...) are fetched to and gzip tars unpacked in; empty: refused."""
    spool_gb: Annotated[float, Field(gt=0), FREE] = 100.0
    """Largest size of that folder, in 10^9 bytes."""
    decoding: Literal["exact", "fast", "scaled"] = "fast"
    """Pixels to the bit as in evaluation, the same but for a level in 0.3 % of the values, or large JPEGs at n/8."""
    in_memory: Annotated[SwitchOrAuto, FREE] = False
    """Decode everything once and keep it in memory (3 x size x size bytes for each pair and view); `auto`: where that
    takes at most a quarter of the free memory."""
    workers: Annotated[CountOrAuto, FREE] = "auto"
    """Processes that load ahead; 0 loads in the main process. `auto`: 0 on a CPU, whose cores train, and for data in
    memory; with a GPU one less than its share of the cores, 1 to 8, as far as /dev/shm has room."""
    start_method: Annotated[Literal["fork", "forkserver"], FREE] = "fork"
    """How they are started on Linux: forked, or from a process that does nothing else, for a source that has threads or
    connections of its own."""
    index_dir: Annotated[PathOrNone, FREE] = "auto"
    """Folder for the pool's manifest and indexes of its tars, which later starts read instead of the tars; `auto`:
    `$XDG_CACHE_HOME/aced/index`, or `~/.cache/aced/index`; empty: none are kept."""
    kind_field: Annotated[str, FREE] = ""
    """Field of the samples' .json that says how each was spoilt, for reports of what was chosen; empty: it is not
    read."""
    concept_field: str = "concepts"
    """Field of the samples' .json that names what is in the picture, a word or a list of words, for rows that choose by
    concepts (`cabs-dm`, `cabs-fm`); read for these alone."""
    views: Annotated[int, Field(ge=1, le=64)] = 1
    """K: each pair is seen as the whole image or one of K - 1 fixed crops, another one in each epoch."""
    scenes: Literal["pool", "redundant", "curated"] = "pool"
    """Built-in data, used where `shards` is empty: the noisy pool, a very redundant one, or the clean split."""
    scenes_size: Positive = 24_000
    """Number of pairs of the built-in data."""
    scenes_seed: int = 1
    """Seed of the built-in data."""


class TowerSection(Section):
    """A model."""

    model: Annotated[PathOrNone, MODEL] = ""
    """An open_clip architecture name, a JSON config, a folder that a run wrote (its `model/`), or a repository of the
    hub, `hf-hub:ORGANISATION/MODEL`."""
    checkpoint: Annotated[PathOrNone, MODEL] = ""
    """Weights for it: a local file (`FILE#KEY`: one of several sets in it), or a tag of open_clip's list, which is
    fetched; empty: the model's own, or random ones."""


class StudentSection(TowerSection):
    """The model that is trained."""

    model: Annotated[PathText, MODEL] = "aced-demo-s"
    """An open_clip architecture name, a JSON config, a folder that a run wrote (its `model/`), or a repository of the
    hub, `hf-hub:ORGANISATION/MODEL`."""


class FrozenSection(TowerSection):
    """A model that is not trained."""

    cache: Annotated[PathOrNone, PLACE] = ""
    """Folder for its cached embeddings; empty: they are computed at every step."""
    cache_missing: Annotated[Literal["make", "refuse"], FREE] = "make"
    """What is done where the cache lacks a tar: embed it now, or refuse and say what there is instead."""


class ReferenceSection(FrozenSection):
    """The frozen model that scores the data; it is the teacher too, where none is given."""

    cache_dtype: Literal["float32", "float16", "int8"] = "float16"
    """Type in which cached embeddings are stored, the teacher's too."""


class TeacherSection(FrozenSection):
    """The frozen model that is distilled, where it is not the reference; or several, whose probabilities are averaged.

    Each has its own logit scale. Their cached embeddings lie in one folder.
    """

    model: Annotated[PlaceText, MODEL] = ""  # type: ignore[assignment]
    """As reference.model; a list of several teachers is allowed."""
    checkpoint: Annotated[PlaceText, MODEL] = ""  # type: ignore[assignment]
    """As reference.checkpoint; of several teachers a list too, with "" for one that brings its own weights."""

    @property
    def each(self) -> list[FrozenSection]:
        """A section for each teacher; empty where none is named."""
        models, checkpoints = (
            [value] if isinstance(value, str) else list(value) for value in (self.model, self.checkpoint)
        )
        rest = {"cache": self.cache, "cache_missing": self.cache_missing}
        checkpoints += [""] * (len(models) - len(checkpoints))
        return [
            FrozenSection(model=model, checkpoint=checkpoint, **rest)  # type: ignore[arg-type]
            for model, checkpoint in zip(models, checkpoints, strict=True)
            if model
        ]


class MethodSection(Section):
    """How batches are chosen and what is distilled."""

    name: str = "aced"
    """A row of the methods table: `aced methods` lists them."""
    weight: Annotated[float, Field(ge=0)] | None = None
    """lambda, the weight of the distillation loss; left out: the table's."""
    second_weight: Annotated[float, Field(ge=0)] | None = None
    """lambda of the second distillation loss, of a row that has two; left out: the table's."""
    columns: Annotated[int, Field(ge=0, le=2**20)] | None = None
    """m: further pairs, of the teacher's cache, that softmax distillation compares with; left out: the table's."""
    column_bank: Annotated[int, Field(ge=1, le=2**24)] = 2**16
    """Pairs that columns are drawn from, read once an epoch and kept on the device (8 bytes a pair and dimension).

    A pool that has no more pairs is taken whole, a larger one by a sample from 64 tars or more, another each epoch."""
    loss: str = "sigmoid"
    """The contrastive loss, in training and in the scores: `sigmoid`, `softmax`, `drrho`, or one that run.imports
    registers. Rows that bring their own, such as `drrho`, leave it aside."""
    drrho_scale: Annotated[float, Field(gt=0, le=1000)] = 100.0
    """t of the `drrho` loss, which is held constant."""
    scope: Literal["global", "quota", "local"] = "global"
    """Who competes where several processes share a super-batch: all, each for its own share, or each alone."""
    filtering_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """f = 1 - b/B: the share of the super-batch that is thrown away; for `clip-filter` the share of the pool."""
    since: Fraction = 0.0
    """Share of the run before which batches are random ones, of the same size, and only those are loaded."""
    until: Fraction = 1.0
    """Share of the run from which they are again."""
    chunks: Positive = 16
    """n: in how many chunks a joint draw is made."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """tau of the draw: probability proportional to exp(score / tau); 0 takes the best."""
    teacher_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Divides the teacher's logits in softmax distillation."""


class ScoringSection(Section):
    """How the student's scoring of the super-batch is made cheap, and what is decided before loading."""

    cascade: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the super-batch that the reference keeps, jointly, for the student to score; 1: all of it."""
    early: bool = False
    """A cached reference decides before loading: of a super-batch only what it keeps is read."""
    reuse: Annotated[int, Field(ge=0)] = 0
    """Largest age in steps of the student's embeddings that are used again for scoring; 0: none are."""
    unseen: Literal["embed", "predict"] = "embed"
    """A pair that `reuse` does not remember: embed it, or predict the student's embedding from the reference's, which
    needs no scoring pass."""
    refresh: Annotated[float, Field(ge=0)] = 0.0
    """With unseen=predict: candidates that are embedded at a step after all, as a share of train.batch; those that were
    embedded longest ago."""
    resolution: Annotated[int, Field(ge=0)] = 0
    """Side in pixels to which images are reduced for scoring; 0: the student's own."""
    coarse_share: Fraction = 0.0
    """Share of each training batch that is seen at `resolution` too."""


class TrainSection(Section):
    """Steps and the optimiser (AdamW, cosine with warm-up)."""

    batch: Positive = 64
    """b: pairs that are trained on at each step."""
    steps: Positive = 400
    """Number of steps."""
    lr: Rate = 1e-3
    """Peak learning rate."""
    warmup: Fraction = 0.08
    """Share of the steps in which the rate rises linearly from 0."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's betas."""
    weight_decay: Rate = 0.05
    """Weight decay, on matrices only."""
    lock: Words = []
    """Parts of the student that stay as they are: `image`, `text`, or names in its state dict (`visual.conv1`,
    `visual.transformer.resblocks.[0-5]`); after a `!`, one that is trained after all. A locked part runs as in
    evaluation, and costs no backward pass."""
    scale_lr: Rate = 10.0
    """Factor of the learning rate for logit scales and biases."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    micro_batch: Annotated[Positive, ROUNDING] = 1024
    """Pairs embedded at once without gradient (scoring, reference, teacher, evaluation)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`bf16` and `fp16` run all towers under autocast, frozen ones and evaluation too; weights, losses and scores stay
    in float32. `auto`: bf16 on a GPU that has it, fp32 elsewhere."""
    tf32: Annotated[SwitchOrAuto, ROUNDING] = "auto"
    """Round float32 matrix products on a GPU to TensorFloat-32, which is faster; `auto`: unless the precision is
    fp32."""
    grad_cache: Annotated[int, Field(ge=0), ROUNDING] = 0
    """Pairs that a process embeds at once in training: bounded memory for one more forward pass; 0: its whole share."""
    activation_checkpointing: Annotated[bool, ROUNDING] = False
    """Compute the towers' activations anew in the backward pass instead of keeping them."""
    compile: Annotated[bool, ROUNDING] = False
    """Compile the towers with torch.compile; the first steps then take minutes."""


class EvalSection(Section):
    """Zero-shot evaluation of the student."""

    tasks: Annotated[Paths, FREE] = []
    """Task folders in CLIP_benchmark's layout, or folders of them; empty: the scenes tasks, if scenes are the data."""
    split: Annotated[Literal["test", "validation"], FREE] = "test"
    """Which split of the scenes tasks."""
    every: Annotated[int, Field(ge=0), FREE] = 0
    """Steps between two evaluations; 0 evaluates at the end only."""


class Sections(Section):
    """All of them."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    student: StudentSection = StudentSection()
    reference: ReferenceSection = ReferenceSection()
    teacher: TeacherSection = TeacherSection()
    method: MethodSection = MethodSection()
    scoring: ScoringSection = ScoringSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
