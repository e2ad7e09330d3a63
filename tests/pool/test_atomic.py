import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from aced.errors import AcedError
from aced.files import atomic
from aced.files.atomic import append_line, folder_atomic, is_disk_full, remove_whole, save_tensors_atomic, write_atomic

LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from aced.files.atomic import append_line, save_tensors_atomic, write_atomic, writing
from aced.cache.making import EmbedSettings
from aced.cache.store import build_store
from aced.errors import AcedError
sys.path.insert(0, sys.argv[2])
from data_fakes import ListSource, WordTower

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

def plain_torch_save():
    with writing(folder / "plain.pt"):
        torch.save(torch.zeros(100_000), folder / "plain.pt")

told = {}
for name, act in {
    "text": lambda: write_atomic(folder / "text", "x" * 100_000),
    "tensors": lambda: save_tensors_atomic(folder / "tensors", {"x": torch.zeros(100_000)}),
    "torch.save": plain_torch_save,
    "lines": lambda: append_line(folder / "lines", "x" * 30_000),
    "store": lambda: build_store(
        folder / "store", ListSource([str(i) for i in range(3000)]), WordTower(), EmbedSettings()
    ),
}.items():
    try:
        act()
        told[name] = "no error"
    except AcedError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


def test_a_full_disk_is_told_and_leaves_the_old_files(tmp_path: Path):
    write_atomic(tmp_path / "text", "old text")
    save_tensors_atomic(tmp_path / "tensors", {"x": torch.ones(3)})
    append_line(tmp_path / "lines", "old line")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) == 5
    for name, sentence in told.items():
        assert sentence.startswith("Disk full"), name
        assert str(tmp_path) in sentence, name
    assert (tmp_path / "text").read_text() == "old text"
    assert load_file(tmp_path / "tensors")["x"].tolist() == [1, 1, 1]
    assert (tmp_path / "lines").read_text() == "old line\n"  # 20,000 bytes of the new one had been written
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {"text", "tensors", "lines", "plain.pt"}


def test_files_are_written_whole_with_usual_rights(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / "deep" / "x.safetensors"
    save_tensors_atomic(path, {"a": torch.arange(6.0).view(2, 3).t()}, {"step": "7"})
    assert torch.equal(load_file(path)["a"], torch.arange(6.0).view(2, 3).t())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"step": "7"}
    assert path.stat().st_mode == plain.stat().st_mode
    write_atomic(tmp_path / "deep" / "ä.txt", "grün")
    assert (tmp_path / "deep" / "ä.txt").read_bytes() == "grün".encode()
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_an_interruption_keeps_the_old_file_and_no_other(tmp_path: Path, monkeypatch, fault):
    write_atomic(tmp_path / "a", "old")

    def interrupt(*_: object) -> None:
        raise fault

    monkeypatch.setattr(atomic.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt if fault is KeyboardInterrupt else AcedError):
        write_atomic(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(AcedError, match="file/below"):
        write_atomic(tmp_path / "file" / "below", "x")


def test_what_counts_as_a_full_disk():
    assert is_disk_full(OSError(28, "No space left on device"))
    assert is_disk_full(OSError(27, "File too large"))
    assert is_disk_full(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert is_disk_full(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"))
    assert not is_disk_full(OSError(13, "Permission denied"))
    assert not is_disk_full(SafetensorError("Invalid header"))
    assert not is_disk_full(RuntimeError("shapes do not match"))
    assert not is_disk_full(ValueError("No space left"))


def test_other_runtime_errors_pass_unchanged(tmp_path: Path):
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share"):
        save_tensors_atomic(tmp_path / "x", {"a": shared, "b": shared})
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), folder_atomic(tmp_path / "new") as temporary:
        (temporary / "a").write_text(str(1 / 0))
    assert not list(tmp_path.iterdir())
    with folder_atomic(tmp_path / "new") as temporary:
        (temporary / "a").touch()
        assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
    with pytest.raises(AcedError, match="write"), folder_atomic(tmp_path / "new"):
        pass
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_what_a_killed_run_left_is_removed_but_not_a_living_one(tmp_path: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = atomic.socket.gethostname()
    left = [tmp_path / f".new.{host}.{pid}.tmp" for pid in (gone.pid, 1)]
    for folder in left:
        folder.mkdir()
        (folder / "half").touch()
    with folder_atomic(tmp_path / "new"):
        pass
    assert not left[0].exists()
    assert left[1].exists()


def test_lines_are_appended(tmp_path: Path):
    for line in ("one", "zwölf"):
        append_line(tmp_path / "lines", line)
    assert (tmp_path / "lines").read_text(encoding="utf-8") == "one\nzwölf\n"
    with pytest.raises(AcedError, match="lines/below"):
        append_line(tmp_path / "lines/below", "x")


def test_a_folder_that_is_removed_is_not_seen_in_part(tmp_path: Path, monkeypatch):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").touch()
    remove_whole(tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_whole(tmp_path / "cut")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".cut.")
    assert left.name.endswith(".tmp")
    monkeypatch.undo()
    with pytest.raises(AcedError, match="write"):
        remove_whole(tmp_path / "cut")
