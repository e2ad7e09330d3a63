"""`aced eval` against CLIP_benchmark 1.6.2: the same figures, and how much quicker.

    python benchmarks/clip_benchmark.py --data data/eval --venv VENV

CLIP_benchmark gets a virtual environment of its own (it needs numpy < 2.4), which is made where it is not there; torch
and open_clip in it are those of this environment. Both sides evaluate the same randomly initialised model (seed 0) in
fp32 on the same folders. `--golden FILE` writes CLIP_benchmark's figures for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "evaluate")]

from task_fakes import write_golden, write_model  # noqa: E402

PINS = ("clip_benchmark==1.6.2", "numpy<2.4", "requests")
PEER = """
import sys, torch
import importlib
try:
    importlib.import_module("torchvision")
except RuntimeError:  # a CPU build of torch beside a CUDA build of torchvision: the names of its operators are enough
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import open_clip
open_clip.add_model_config(sys.argv[1])
sys.argv = ["clip_benchmark", *sys.argv[2:]]
from clip_benchmark.cli import main
main()
"""
OURS = "from aced.cli import main; main()"


def make_venv(folder: Path) -> Path:
    """The python of CLIP_benchmark's environment, made where it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
        subprocess.run([python, "-m", "pip", "install", "-q", *PINS], check=True)
    return python


class Sides:
    """Runs either program on task folders, each call a process of its own."""

    def __init__(self, peer: Path, work: Path, weights: Path | None) -> None:
        self.peer, self.work = peer, work
        self.config, initial = write_model(work)
        self.weights = weights or initial

    def clip_benchmark(self, folder: Path) -> tuple[dict[str, float], float]:
        """Metrics and seconds of one task."""
        out = self.work / f"peer-{folder.name}.json"
        out.unlink(missing_ok=True)
        kind = folder / "dataset_type.txt"
        retrieval = kind.exists() and kind.read_text(encoding="utf-8").strip() == "retrieval"
        words = ["--task", "zeroshot_retrieval", "--recall_k", "1", "5", "10"] if retrieval else []
        words += ["--dataset", f"wds/{folder.name.removeprefix('wds_')}", "--dataset_root", str(folder)]
        words += ["--model", "tiny-aced", "--pretrained", str(self.weights), "--no_amp", "--num_workers", "1"]
        seconds = timed([self.peer, "-c", PEER, self.config, "eval", "--quiet", "--output", out, *words])
        return json.loads(out.read_text(encoding="utf-8"))["metrics"], seconds

    def ours(self, folders: Sequence[Path], name: str) -> tuple[dict[str, dict[str, float]], float]:
        """Metrics by task, and seconds, of one command without any cache."""
        out = self.work / name
        shutil.rmtree(out, ignore_errors=True)
        words = ["eval", self.config, "--checkpoint", self.weights, "--out", out, "--data", *folders]
        seconds = timed([sys.executable, "-c", OURS, *words])
        tasks = json.loads((out / "eval.json").read_text(encoding="utf-8"))["tasks"]
        return {name: record["metrics"] for name, record in tasks.items()}, seconds


def timed(words: Sequence[object]) -> float:
    """Seconds of a command; its output is shown where it fails."""
    start = time.perf_counter()
    run = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    if run.returncode:
        sys.exit(f"{words[:4]} failed:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
    return time.perf_counter() - start


def compare(theirs: dict[str, dict[str, float]], ours: dict[str, dict[str, float]]) -> float:
    """Print every metric of both; returns the largest difference."""
    worst = 0.0
    for task, metrics in theirs.items():
        for metric, value in sorted(metrics.items()):
            mine = ours[task][metric]
            if value != value:
                assert mine is None, f"{task} {metric}: CLIP_benchmark has NaN and aced {mine}"
                continue
            worst = max(worst, abs(mine - value))
            print(f"{task:20} {metric:26} {value:.8f} {mine:.8f} {abs(mine - value):.1e}")
    return worst


def main() -> None:
    """Parity on all folders, then the ratios of time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of task folders")
    parser.add_argument("--venv", type=Path, required=True, help="CLIP_benchmark's environment; made if missing")
    parser.add_argument("--work", type=Path, default=Path("/tmp/clip-benchmark-parity"), help="scratch folder")
    parser.add_argument("--weights", type=Path, help="other weights of the same model than the initial ones")
    parser.add_argument("--task", default="wds_cifar10", help="folder of the timing on one task")
    parser.add_argument("--repeats", type=int, default=3, help="of the timing on one task")
    parser.add_argument("--golden", type=Path, help="write CLIP_benchmark's figures here")
    parser.add_argument("--out", type=Path, help="write all figures here")
    parser.add_argument("--parity-only", action="store_true", help="measure no time")
    options = parser.parse_args()
    sides = Sides(make_venv(options.venv), options.work, options.weights)
    made = list(write_golden(options.work / "golden").values())
    folders = sorted(options.data.glob("wds_*"))

    peer = {folder.name.removeprefix("wds_"): sides.clip_benchmark(folder) for folder in [*made, *folders]}
    ours_made, _ = sides.ours(made, "ours-made")
    ours, seconds = sides.ours(folders, "ours-all")
    theirs = {name: metrics for name, (metrics, _) in peer.items()}
    worst = compare(theirs, ours_made | ours)
    print(f"\nlargest difference: {worst:.1e} over {len(peer)} tasks")
    figures: dict[str, Any] = {"largest_difference": worst}
    if options.golden:
        options.golden.write_text(json.dumps(theirs, indent=1) + "\n", encoding="utf-8")
    if not options.parity_only:
        total = sum(peer[folder.name.removeprefix("wds_")][1] for folder in folders)
        figures["all"] = {"tasks": len(folders), "theirs": total, "ours": seconds, "ratio": total / seconds}
        ratio = total / seconds
        print(f"{len(folders)} tasks: {total:.1f} s in as many calls, {seconds:.1f} s in one command: {ratio:.1f}x")
        one = options.data / options.task
        pairs = [(sides.clip_benchmark(one)[1], sides.ours([one], "ours-one")[1]) for _ in range(options.repeats)]
        ratios = [theirs / ours for theirs, ours in pairs]
        figures["one"] = {"task": options.task, "pairs": pairs, "ratio": statistics.median(ratios)}
        print(f"{options.task}: ratios {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if worst > 1e-6:
        sys.exit(f"The largest difference is {worst:.1e}.")


if __name__ == "__main__":
    main()
