"""The laboratory is a plug-in: the product works without it, and says what it lacks."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aced

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without its laboratory."""
    copy = tmp_path_factory.mktemp("bare")
    ignore = shutil.ignore_patterns("lab", "__pycache__")
    shutil.copytree(Path(aced.__file__).parent, copy / "aced", ignore=ignore)
    return copy


def run(bare: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(bare), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-m", "aced", *words], env=env, capture_output=True, text=True)


def make_tar(path: Path, pairs: int) -> Path:
    noise = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for i in range(pairs):
            image = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(image, "PNG")
            for name, content in ((f"{i}.png", image.getvalue()), (f"{i}.txt", f"picture {i}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_a_run_on_tars_needs_no_laboratory(bare: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "pool.tar", 40)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    keys = [f"data.shards={tmp_path / 'pool.tar'}", f"student.model={tmp_path / 'tiny.json'}", "method.name=iid"]
    config = tmp_path / "my.toml"
    config.write_text("[train]\nsteps = 2\nbatch = 8\n[data]\nindex_dir = ''\n", encoding="utf-8")
    ended = run(bare, "train", str(config), *keys, f"run.out={tmp_path / 'out'}", "run.device=cpu")
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"] == 2
    assert (tmp_path / "out/report.html").is_file()


def test_what_only_the_laboratory_has_is_missing_by_name(bare: Path, tmp_path: Path) -> None:
    assert " demo " not in run(bare, "--help").stdout
    ended = run(bare, "train", "scenes", f"run.out={tmp_path / 'out'}", "method.name=iid")
    assert ended.returncode == 2
    assert "'scenes'" in ended.stderr or "aced-demo" in ended.stderr
    assert "Traceback" not in ended.stderr
