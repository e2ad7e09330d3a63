"""Every key of a training run: typed, bounded and documented once.

A run is described by a TOML file; what is not in it has the default given here. `aced train FILE section.key=value`
overrides single keys, and the resolved file is written into the run folder. The sentence below each field is its
documentation; `aced config` prints them all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aced.config_types import (
    Beta,
    CountOrAuto,
    PathOrNone,
    Paths,
    PathText,
    Positive,
    Rate,
    Seed,
    Share,
    SwitchOrAuto,
    Trackers,
)
from aced.errors import AcedError, nearest
from aced.paths import expand_path
from aced.removed import why_not_key, why_not_value, without_defaults
from aced.resume import FREE, MODEL, PLACE, ROUNDING, Resume

if TYPE_CHECKING:
    from aced.methods import Method


class Section(BaseModel):
    """A table of the TOML file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunSection(Section):
    """The run itself."""

    out: Annotated[PathText, FREE] = "runs/train"
    """Folder of the run: config, metrics, checkpoints, results."""
    seed: Seed = 0
    """Seed of the initial weights, the order of the data and the draws."""
    device: Annotated[str, ROUNDING] = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    threads: Annotated[int, Field(ge=0, le=1024), ROUNDING] = 0
    """CPU threads; 0 chooses. Bit-equal repetition needs the same number, so it is recorded."""
    log_every: Annotated[Positive, FREE] = 10
    """Steps between two lines of metrics.jsonl."""
    trackers: Annotated[Trackers, FREE] = []
    """Who gets these lines too: `tensorboard` (into the run's folder), `wandb`, `trackio`; one, or a list."""
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
    """Seconds that processes of a job wait for each other within a step, and for loading processes that do nothing,
    before it ends; one that dies ends it at once."""


class DataSection(Section):
    """The pool that the student learns from."""

    shards: Annotated[Paths, PLACE] = []
    """Tars in webdataset/img2dataset/DataComp layout: files, folders, globs, `{00000..00009}` ranges. Empty: scenes."""
    caption: str = "txt"
    """Where captions are: `txt`, or `json:FIELD` for a field of the sample's .json."""
    caption_choice: Literal["whole", "first", "random"] = "whole"
    """Of several captions (lines of the .txt, entries of a .json's list): the `first`, or a `random` one each epoch."""
    weights: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = []
    """Share of each entry of `shards` in every super-batch, in any unit; empty: every pair counts alike."""
    bad_tars: Annotated[Literal["stop", "skip"], FREE] = "stop"
    """What a damaged tar does, or one that is lost under the run: stop it, or leave out what cannot be read and count
    it."""
    lost_tars: Annotated[Literal["refuse", "allow"], FREE] = "refuse"
    """What --resume does where tars of the run are gone or have changed: refuse, or go on without their samples."""
    max_bad_share: Annotated[Share, FREE] = 0.01
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
    index_dir: Annotated[PathOrNone, FREE] = ""
    """Folder for indexes of the tars; empty: none are kept."""
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
    """An open_clip architecture name, a JSON config, or a folder that a run wrote (its `model/`)."""
    checkpoint: Annotated[PathOrNone, MODEL] = ""
    """Local weights (.safetensors or .pt) for it; empty: random initialisation, or the folder's own weights."""


class StudentSection(TowerSection):
    """The model that is trained."""

    model: Annotated[PathText, MODEL] = "aced-demo-s"
    """An open_clip architecture name, a JSON config, or a folder that a run wrote (its `model/`)."""


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
    """The frozen model that is distilled, where it is not the reference."""


class MethodSection(Section):
    """How batches are chosen and what is distilled."""

    name: str = "aced"
    """A row of the methods table: `aced methods` lists them."""
    weight: Annotated[float, Field(ge=0)] | None = None
    """lambda, the weight of the distillation loss; left out: the table's."""
    columns: Annotated[int, Field(ge=0, le=2**20)] | None = None
    """m: further pairs, of the teacher's cache, that softmax distillation compares with; left out: the table's."""
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    """The contrastive loss, in training and in the scores."""
    scope: Literal["global", "quota", "local"] = "global"
    """Who competes where several processes share a super-batch: all, each for its own share, or each alone."""
    filtering_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """f = 1 - b/B: the share of the super-batch that is thrown away."""
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
    coarse_share: Share = 0.0
    """Share of each training batch that is seen at `resolution` too."""


class TrainSection(Section):
    """Steps and the optimiser (AdamW, cosine with warm-up)."""

    batch: Positive = 64
    """b: pairs that are trained on at each step."""
    steps: Positive = 400
    """Number of steps."""
    lr: Rate = 1e-3
    """Peak learning rate."""
    warmup: Share = 0.08
    """Share of the steps in which the rate rises linearly from 0."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's betas."""
    weight_decay: Rate = 0.05
    """Weight decay, on matrices only."""
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


class Config(Section):
    """A whole run."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    student: StudentSection = StudentSection()
    reference: ReferenceSection = ReferenceSection()
    teacher: TeacherSection = TeacherSection()
    method: MethodSection = MethodSection()
    scoring: ScoringSection = ScoringSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()

    @model_validator(mode="after")
    def _together(self) -> Config:
        from aced.config_checks import check_together

        try:
            method = self.row
        except AcedError as error:
            raise ValueError(str(error)) from None
        check_together(self, method)
        return self

    @property
    def row(self) -> Method:
        """The row of the methods table, with the config's own lambda and columns; AcedError where they do not fit."""
        from aced.methods import get_method

        return get_method(self.method.name, weight=self.method.weight, columns=self.method.columns)

    @property
    def super_batch(self) -> int:
        """B: candidates loaded at each step; b itself for a method that does not choose."""
        from aced.methods import METHODS

        if METHODS[self.method.name].score is None:
            return self.train.batch
        return round(self.train.batch / (1 - self.method.filtering_ratio))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, or a packaged recipe by name, and apply `section.key=value` overrides.

    Raises:
        AcedError: no such file or recipe, invalid TOML, an unknown key (names the nearest), a value out of bounds.
    """
    text, where = _read(path)
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AcedError(f"{where} is not valid TOML: {error}.") from None
    for override in overrides:
        _override(values, override)
    return make_config(values, where)


def make_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Check a nested mapping and make a `Config` of it; raises AcedError with every problem, a sentence each."""
    try:
        return Config.model_validate(without_defaults(values))
    except ValidationError as error:
        raise AcedError(f"{where}: " + " ".join(_sentence(e) for e in error.errors())) from None


def dump_config(config: Config) -> str:
    """The resolved TOML text."""
    return tomli_w.dumps(config.model_dump(exclude_none=True, mode="json"))


def recipes() -> dict[str, Path]:
    """The packaged recipes by name."""
    return {p.stem: p for p in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}


def describe_keys() -> list[tuple[str, str, str]]:
    """Every key with its default (as TOML) and its documentation."""
    rows = []
    for section, field in Config.model_fields.items():
        for key, inner in field.annotation.model_fields.items():  # type: ignore[union-attr]
            default = "" if inner.default is None else tomli_w.dumps({"v": inner.default})[4:].strip()
            rows.append((f"{section}.{key}", " ".join(default.split()), " ".join((inner.description or "").split())))
    return rows


def resume_rules() -> dict[str, Resume | None]:
    """What `--resume` asks of every key; None: it must be the same."""
    return {
        f"{section}.{key}": next((mark for mark in inner.metadata if isinstance(mark, Resume)), None)
        for section, field in Config.model_fields.items()
        for key, inner in field.annotation.model_fields.items()  # type: ignore[union-attr]
    }


def _read(path: str | Path) -> tuple[str, str]:
    try:
        file = Path(expand_path(str(path)))
    except ValueError as error:
        raise AcedError(f"The config '{path}' cannot be read: {error}.") from None
    if not file.is_file():
        known = recipes()
        if str(path) not in known:
            raise AcedError(f"There is no config file and no recipe '{path}'.{nearest(str(path), known)}")
        file = known[str(path)]
    try:
        return file.read_text(encoding="utf-8-sig"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise AcedError(f"The config {path} cannot be read: {reason}.") from None


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) != 2 or not all(parts):
        raise AcedError(f"Cannot read the override '{text}': write section.key=value, for example train.steps=100.")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw  # a bare word is a string: method.name=aced
    if not isinstance(value, (str, list)) and _is_text(*parts):
        value = raw  # run.out=2026-01-31 is a name, and neither a date nor a number
    section = values.setdefault(parts[0], {})
    if isinstance(section, dict):  # what is no table is told when the whole is checked
        section[parts[1]] = value


def _is_text(section: str, key: str) -> bool:
    """Whether a key takes words."""
    table = Config.model_fields.get(section)
    field = table.annotation.model_fields.get(key) if table else None  # type: ignore[union-attr]
    return field is not None and field.annotation in (str, list[PathText])


def _sentence(error: Any) -> str:
    where = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        if gone := why_not_key(where):
            return gone
        section: Any = Config
        for part in error["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"There is no key '{where}'.{nearest(str(error['loc'][-1]), section.model_fields)}"
    if gone := why_not_value(where, error["input"]):
        return gone
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return str(message)
    if error["type"] == "model_type":
        message = f"a table is needed, [{where}]"
    return f"{where} = {error['input']!r} is not allowed: {message[0].lower()}{message[1:]}."
