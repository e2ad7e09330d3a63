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
    """Folder for everything the run writes: its config, metrics, checkpoints, model and results."""
    imports: Annotated[Words, FREE] = []
    """Your modules to import first, as in `import my_module`. They may register methods, losses, sources and more;
    the current folder is searched too."""
    seed: Seed = 0
    """Seed for the initial weights, the order of the data and the random draws."""
    device: Annotated[str, ROUNDING] = "auto"
    """Device to train on: `cpu`, `cuda`, `cuda:1`, ... `auto` takes CUDA if the machine has it."""
    threads: Annotated[int, Field(ge=0, le=1024), ROUNDING] = 0
    """Number of CPU threads; 0 measures which number is fastest. Runs repeat bit for bit only with the same number,
    so the run records it."""
    log_every: Annotated[Positive, FREE] = 10
    """Steps between two lines of metrics.jsonl."""
    trackers: Annotated[TrackerNames, FREE] = []
    """Services that also receive each line: `tensorboard` (writes into the run's folder), `wandb`, `trackio`, or
    one that run.imports registers. One name or a list."""
    checkpoint_every: Annotated[int, Field(ge=0), FREE] = 500
    """Steps between two checkpoints. 0 saves none by step count; the run always saves one at the end."""
    checkpoint_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False), FREE] = 15.0
    """Minutes between two checkpoints, in addition to checkpoint_every. 0 saves none by time."""
    keep: Annotated[Positive, FREE] = 2
    """Number of newest checkpoints to keep. An older one is deleted once a newer one is complete."""
    keep_best: Annotated[bool, FREE] = False
    """Also keep the model with the best average among the evaluations of `eval.every`, in `best/`."""
    parallel: Annotated[Literal["ddp", "fsdp"], ROUNDING] = "ddp"
    """How several processes hold the student: `ddp` gives each a full copy, `fsdp` (FSDP2) gives each a share of
    the weights and optimiser state."""
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False), FREE] = 300.0
    """Seconds that processes wait for each other within a step, and for a loading process that makes no progress,
    before the job ends. The first step may take at least 30 minutes. A process that dies ends the job at once."""


class DataSection(Section):
    """The pool that the student learns from."""

    shards: Annotated[Paths, PLACE] = []
    """Tars in webdataset, img2dataset or DataComp layout: files, folders, globs, `{00000..00009}` ranges, or
    manifests that `aced index` wrote. Empty: the built-in scenes."""
    source: str = ""
    """Name of a source that run.imports registers; it replaces tars and scenes."""
    caption: str = "txt"
    """Where a sample's caption is: `txt`, or `json:FIELD` for a field of its .json file."""
    caption_choice: Literal["whole", "first", "random"] = "whole"
    """`whole`: the .txt is one caption, and of a .json's list the first entry is. Otherwise each line or entry is a
    caption: the `first` is used, or a `random` one in each epoch."""
    weights: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = []
    """Share of each entry of `shards` in every super-batch, in any unit. Empty: every pair counts the same."""
    locality: CountOrAuto = "auto"
    """K: the number of tars that a stream reads at once and whose pairs it mixes. 0 shuffles all pairs of the pool.
    `auto`: 0 up to 20 million pairs and 10,000 tars, otherwise 16."""
    streams: OneOrAuto = "auto"
    """C: the number of streams of tars that fill a super-batch if `locality` is not 0. The run can use any number
    of processes that divides C. `auto`: the number of processes times a power of 2, up to 8."""
    bad_tars: Annotated[Literal["stop", "skip"], FREE] = "stop"
    """What to do about a damaged tar, or one that disappears during the run: `stop`, or `skip` what cannot be read
    and count it."""
    lost_tars: Annotated[Literal["refuse", "allow"], FREE] = "refuse"
    """What --resume does if tars of the run are gone or have changed: `refuse`, or `allow` the run to continue
    without their samples."""
    max_bad_share: Annotated[Fraction, FREE] = 0.01
    """Largest share of unreadable samples. The run stops once the samples it has read show, beyond chance, that the
    pool has more. Lost tars do not count."""
    spool_dir: Annotated[PathOrNone, FREE] = ""
    """Local folder for tars fetched from addresses (`s3://`, `https://`, ...) and for unpacked gzip tars. Empty:
    such tars are refused."""
    spool_gb: Annotated[float, Field(gt=0), FREE] = 100.0
    """Maximum size of that folder in GB (10^9 bytes)."""
    decoding: Literal["exact", "fast", "scaled"] = "fast"
    """`exact`: pixels bit-identical to evaluation. `fast`: torch's resize; 0.3 % of the values differ by one level.
    `scaled`: as fast, and large JPEGs are decoded at a reduced size."""
    in_memory: Annotated[SwitchOrAuto, FREE] = False
    """Decode all images once and keep them in memory (3 x size x size bytes per pair and view). `auto`: only if
    that takes at most a quarter of the free memory."""
    workers: Annotated[CountOrAuto, FREE] = "auto"
    """Processes that load data ahead of the step; 0 loads in the main process. `auto`: 0 on a CPU, whose cores
    train, and for data in memory; on a GPU 1 to 8, one fewer than its share of the cores, if /dev/shm has room."""
    start_method: Annotated[Literal["fork", "forkserver"], FREE] = "fork"
    """How loading processes start on Linux: `fork`, or `forkserver` for a source that has threads or connections of
    its own."""
    index_dir: Annotated[PathOrNone, FREE] = "auto"
    """Folder for the pool's manifest and the indexes of its tars, which later runs read instead of the tars.
    `auto`: `$XDG_CACHE_HOME/aced/index`, or `~/.cache/aced/index`. Empty: nothing is kept."""
    kind_field: Annotated[str, FREE] = ""
    """Field of the samples' .json that names each sample's kind; the report then shows which kinds were chosen.
    Empty: not read."""
    concept_field: str = "concepts"
    """Field of the samples' .json that names what the image shows, a word or a list of words. Only methods that choose
    by concepts (`cabs-dm`, `cabs-fm`) read it."""
    views: Annotated[int, Field(ge=1, le=64)] = 1
    """K: number of views of each image: the whole image and K - 1 fixed crops, a different one in each epoch."""
    scenes: Literal["pool", "redundant", "curated"] = "pool"
    """Which built-in scenes to use if `shards` is empty: the noisy `pool`, a very `redundant` one, or the clean
    `curated` split."""
    scenes_size: Positive = 24_000
    """Number of built-in scenes."""
    scenes_seed: int = 1
    """Seed of the built-in scenes."""


class TowerSection(Section):
    """A model."""

    model: Annotated[PathOrNone, MODEL] = ""
    """An open_clip architecture, a JSON config, a folder that a run wrote (its `model/`), or
    `hf-hub:ORGANISATION/MODEL`."""
    checkpoint: Annotated[PathOrNone, MODEL] = ""
    """Its weights: a local file (`FILE#KEY` picks one of several sets in it), or a tag from open_clip's list, which
    is downloaded. Empty: the model's own weights, or random ones."""


class StudentSection(TowerSection):
    """The model that is trained."""

    model: Annotated[PathText, MODEL] = "aced-demo-s"
    """An open_clip architecture, a JSON config, a folder that a run wrote (its `model/`), or
    `hf-hub:ORGANISATION/MODEL`."""


class FrozenSection(TowerSection):
    """A model that is not trained."""

    cache: Annotated[PathOrNone, PLACE] = ""
    """Folder of its cached embeddings. Empty: they are computed at every step."""
    cache_missing: Annotated[Literal["make", "refuse"], FREE] = "make"
    """What to do if the cache lacks a tar: `make` its embeddings now, or `refuse` and list what the cache has."""


class ReferenceSection(FrozenSection):
    """The frozen model that scores the data. It is also the teacher unless another one is named."""

    cache_dtype: Literal["float32", "float16", "int8"] = "float16"
    """Number format of cached embeddings, the teacher's included."""


class TeacherSection(FrozenSection):
    """The frozen model to distil if it is not the reference, or several, whose probabilities are averaged.

    Each has its own logit scale. Their cached embeddings lie in one folder.
    """

    model: Annotated[PlaceText, MODEL] = ""  # type: ignore[assignment]
    """As reference.model, or a list of several teachers."""
    checkpoint: Annotated[PlaceText, MODEL] = ""  # type: ignore[assignment]
    """As reference.checkpoint; with several teachers a list, with "" for one that brings its own weights."""

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
    """A row of the methods table; `aced methods` lists them."""
    weight: Annotated[float, Field(ge=0)] | None = None
    """lambda: weight of the distillation loss. Unset: the method's own."""
    second_weight: Annotated[float, Field(ge=0)] | None = None
    """lambda of the second distillation loss, for methods that have two. Unset: the method's own."""
    columns: Annotated[int, Field(ge=0, le=2**20)] | None = None
    """m: number of additional pairs from the teacher's cache that softmax distillation compares each batch with.
    Unset: the method's own."""
    column_bank: Annotated[int, Field(ge=1, le=2**24)] = 2**16
    """Number of pairs that columns are drawn from. They are read once an epoch and kept on the device (8 bytes per
    pair and dimension). A smaller pool is taken whole; a larger one is sampled from at least 64 tars, anew in each
    epoch."""
    loss: str = "sigmoid"
    """Contrastive loss, for training and for the scores: `sigmoid`, `softmax`, `drrho`, or one that run.imports
    registers. Methods that bring their own loss, such as `drrho`, ignore it."""
    drrho_scale: Annotated[float, Field(gt=0, le=1000)] = 100.0
    """t: constant logit scale of the `drrho` loss."""
    scope: Literal["global", "quota", "local"] = "global"
    """How several processes select from a super-batch. `global`: all candidates compete. `quota`: each process chooses
    b/W of its own candidates, knowing what all have chosen. `local`: the same, knowing only its own choices."""
    quota: bool = False
    """Give each entry of data.shards its own share of every batch, in proportion to its candidates, so that entries do
    not compete; with `clip-filter`, its own threshold. For pools with domains that the reference knows less well.
    Batches are then chosen in a single process."""
    filtering_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """f = 1 - b/B: share of the super-batch that is discarded; with `clip-filter`, share of the pool."""
    since: Fraction = 0.0
    """Share of the run after which selection begins. Before it, batches of the same size are random, and only they
    are loaded."""
    until: Fraction = 1.0
    """Share of the run at which selection ends and random batches begin."""
    chunks: Positive = 16
    """n: number of chunks in which a joint selection draws the batch."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """tau of the selection: a pair's probability is proportional to exp(score / tau); 0 takes the best."""
    teacher_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Divisor of the teacher's logits in softmax distillation."""


class ScoringSection(Section):
    """Cheaper scoring of the super-batch, and what is decided before loading."""

    cascade: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the super-batch that the reference preselects for the student to score; 1 scores all of it. Lower is
    cheaper; 0.4 costs 0.7 points in docs/cost.md."""
    early: bool = False
    """Let a cached reference preselect before loading: only the pairs that it keeps are read and decoded."""
    reuse: Annotated[int, Field(ge=0)] = 0
    """Maximum age, in steps, at which the student's embeddings of a pair may be reused for scoring; 0 never reuses
    them."""
    unseen: Literal["embed", "predict"] = "embed"
    """How to score pairs that `reuse` does not remember: `embed` runs the student; `predict` estimates its
    embedding from the reference's and needs no forward pass."""
    refresh: Annotated[float, Field(ge=0)] = 0.0
    """With unseen=predict: number of candidates to embed at each step all the same, as a share of train.batch,
    oldest first."""
    resolution: Annotated[int, Field(ge=0)] = 0
    """Image side in pixels for scoring; 0 scores at the student's own resolution."""
    coarse_share: Fraction = 0.0
    """Share of each training batch that is also trained at `resolution`, so that the student learns to score
    there."""


class TrainSection(Section):
    """Steps and the optimiser (AdamW, cosine with warm-up)."""

    batch: Positive = 64
    """b: number of pairs per training step, over all processes."""
    steps: Positive = 400
    """Number of training steps."""
    lr: Rate = 1e-3
    """Peak learning rate."""
    warmup: Fraction = 0.08
    """Share of the steps during which the learning rate rises linearly from 0."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's two betas."""
    weight_decay: Rate = 0.05
    """Weight decay, applied to matrices only."""
    decay_embeddings: bool = True
    """Apply weight decay to position and token embeddings too, as open_clip does. `false`: neither they nor the
    parameters that the model lists in `no_weight_decay()` (such as class tokens) decay, as in timm."""
    lock: Words = []
    """Parts of the student to freeze: `image`, `text`, or names in its state dict (`visual.conv1`,
    `visual.transformer.resblocks.[0-5]`); a name after `!` is trained all the same. Frozen parts run in evaluation
    mode and cost no backward pass."""
    scale_lr: Rate = 10.0
    """Factor on the learning rate of logit scales and biases."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Maximum norm of the gradient; larger ones are scaled down."""
    micro_batch: Annotated[Positive, ROUNDING] = 1024
    """Pairs per forward pass without gradient (scoring, reference, teacher, evaluation). Lower it if memory runs
    out."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of all models, frozen ones and evaluation included; weights, losses and scores stay in float32.
    `bf16` and `fp16` use autocast. `auto`: bf16 on a GPU that supports it, otherwise fp32."""
    tf32: Annotated[SwitchOrAuto, ROUNDING] = "auto"
    """Use TensorFloat-32 for float32 matrix products on a GPU, which is faster and rounds more. `auto`: unless the
    precision is fp32."""
    grad_cache: Annotated[int, Field(ge=0), ROUNDING] = 0
    """Pairs per forward pass in training, at the cost of one more forward pass (gradient caching); 0 runs a
    process's whole share at once. Lower it if memory runs out."""
    activation_checkpointing: Annotated[bool, ROUNDING] = False
    """Recompute activations in the backward pass instead of storing them: less memory, about a third more
    computation."""
    compile: Annotated[bool, ROUNDING] = False
    """Compile the models with torch.compile; the first steps then take minutes."""


class EvalSection(Section):
    """Zero-shot evaluation of the student."""

    tasks: Annotated[Paths, FREE] = []
    """Task folders in CLIP_benchmark's layout, folders that hold some, or names of registered tasks. Empty: the
    scenes' tasks if the run trains on scenes."""
    split: Annotated[Literal["test", "validation"], FREE] = "test"
    """Split of the scenes' tasks: choose settings on `validation`, report `test`."""
    every: Annotated[int, Field(ge=0), FREE] = 0
    """Steps between two evaluations; 0 evaluates only at the end."""


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
