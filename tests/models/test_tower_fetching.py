"""Models by tag and by address: the hub's real client against a server on the loopback address."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub, running
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save
from test_tower_checkpoints import SMALL, torch_bytes
from tower_fakes import write_config

from aced.errors import AcedError
from aced.models import Tower, import_open_clip, load_tower, save_tower
from aced.models.hub_folder import NAMES
from aced.models.pretrained import HUB
from aced.models.pretrained_tags import _known, _tags
from aced.models.recipes import find_recipe

TINY = SMALL
PIXELS: dict[str, Any] = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
SAFE = "open_clip_model.safetensors"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine may be connected to."""
    connect = socket.create_connection

    def local(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
        assert address[0] == "127.0.0.1", f"the network was touched: {address}"
        return connect(address, *rest, **more)

    monkeypatch.setattr(socket, "create_connection", local)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server, and the client's constants as they are where HF_ENDPOINT names it and HF_HOME a new folder."""
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield hub


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tower:
    """Trained weights, so to say."""
    return load_tower(write_config(tmp_path_factory.mktemp("tiny") / "tiny.json", TINY), seed=4)


@pytest.fixture
def listed(hub: Hub, tiny: Tower, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """open_clip lists the architecture `Tiny` with two tags, of which the hub has the weights."""
    open_clip = import_open_clip()
    tags = {
        "quick_b4k": {"hf_hub": "org/tiny/", "quick_gelu": True, **PIXELS},
        "plain_b4k": {"hf_hub": "org/plain/weights.bin", **PIXELS, "mean": [0.0] * 3},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", tags)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", TINY)
    state = tiny.model.state_dict()
    hub.repos = {"org/tiny": {SAFE: save(state)}, "org/plain": {"weights.bin": torch_bytes(dict(state))}}
    yield hub
    _tags.cache_clear()
    _known.cache_clear()


def repository(tiny: Tower, **more: bytes) -> dict[str, bytes]:
    config = {"model_cfg": {**TINY, "quick_gelu": True}, "preprocess_cfg": PIXELS}
    return {"open_clip_config.json": json.dumps(config).encode(), SAFE: save(tiny.model.state_dict()), **more}


def local(folder: Path, **changes: Any) -> dict[str, str]:
    """The identity of the same model from local files alone."""
    content = {"model_cfg": {**TINY, "quick_gelu": True}, "preprocess_cfg": PIXELS, **changes}
    folder.mkdir(exist_ok=True)
    plain = load_tower(write_config(folder / "t.json", TINY), seed=4)
    (folder / "w.safetensors").write_bytes(save(plain.model.state_dict()))
    return load_tower(write_config(folder / "c.json", content), folder / "w.safetensors").identity()


# -- whole answers -------------------------------------------------------------------------------------------------


def test_a_tag_is_the_same_model_as_its_file_and_as_open_clip_makes_of_it(listed: Hub, tmp_path: Path) -> None:
    tower = load_tower("Tiny", "quick_b4k").eval()
    assert tower.identity() == local(tmp_path / "local")
    assert listed.fetched(SAFE) == 1
    open_clip = import_open_clip()
    theirs, _, transform = open_clip.create_model_and_transforms("Tiny", pretrained="quick_b4k", force_quick_gelu=True)
    picture = Image.effect_noise((40, 24), 90).convert("RGB")
    with torch.no_grad():
        wanted = theirs.eval().encode_image(transform(picture)[None], normalize=True)
        small = picture.resize((16, 16), Image.Resampling.BILINEAR)
        pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).reshape(1, 16, 16, 3)
        torch.testing.assert_close(tower.embed_image(pixels.permute(0, 3, 1, 2)), wanted)
    assert not tower.notes  # the tag says it all


def test_every_way_to_write_a_tag_and_what_it_alone_says(listed: Hub) -> None:
    assert load_tower("Tiny", "PLAIN-b4k").preprocess["mean"] == [0.0] * 3
    assert listed.fetched("weights.bin") == 1
    assert load_tower("Tiny", "plain_b4k").config.get("quick_gelu") is None
    assert listed.fetched("weights.bin") == 1  # it is in the cache


def test_an_address_is_the_same_model_as_its_folder(hub: Hub, tiny: Tower, tmp_path: Path) -> None:
    hub.repos["org/tiny"] = repository(tiny)
    tower = load_tower(f"{HUB}org/tiny")
    assert tower.identity() == local(tmp_path / "local")
    assert tower.name == "tiny"
    saved = tmp_path / "saved"
    save_tower(tower, saved)
    hub.repos.clear()
    assert load_tower(saved).identity() == tower.identity()
    assert load_tower(f"{HUB}org/tiny@{'c0ffee' + '0' * 34}").identity() == tower.identity()  # from the cache


@pytest.mark.parametrize("name", [NAMES[1], NAMES[2], NAMES[4], NAMES[7]])
def test_a_repository_has_its_weights_under_any_name_of_open_clips(name: str, hub: Hub, tiny: Tower) -> None:
    files = repository(tiny)
    weights = files.pop(SAFE)
    state = dict(tiny.model.state_dict())
    hub.repos["org/tiny"] = {**files, name: weights if name.endswith(".safetensors") else torch_bytes(state)}
    own = load_tower(f"{HUB}org/tiny").model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_a_local_file_or_folder_of_that_name_wins(
    listed: Hub, tiny: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = {name: value / 2 for name, value in tiny.model.state_dict().items()}
    Path("quick_b4k").write_bytes(torch_bytes(other))
    own = load_tower("Tiny", "quick_b4k").model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in other.items())
    folder = Path("hf-hub:org") / "tiny"
    save_tower(tiny, folder)
    assert load_tower(str(folder)).identity() == tiny.identity()
    assert not listed.asked


def test_local_weights_take_the_place_of_a_repositorys(hub: Hub, tiny: Tower, tmp_path: Path) -> None:
    hub.repos["org/tiny"] = repository(tiny)
    torch.save(tiny.model.state_dict(), tmp_path / "w.pt")
    load_tower(f"{HUB}org/tiny", tmp_path / "w.pt")
    assert not hub.fetched(SAFE)


def test_only_what_is_missing_is_fetched_and_shown(listed: Hub) -> None:
    shown: list[Any] = []

    @contextmanager
    def progress(description: str) -> Iterator[Any]:
        shown.append(description)
        yield lambda done, total: shown.append((done, total))

    load_tower("Tiny", "quick_b4k", progress=progress)
    size = len(listed.repos["org/tiny"][SAFE])
    assert SAFE in shown[0]
    assert shown[-1] == (size, size)
    shown.clear()
    load_tower("Tiny", "quick_b4k", progress=progress)
    assert not shown
    assert find_recipe("Tiny", "quick_b4k").trained  # which costs nothing
    assert listed.fetched(SAFE) == 1


def test_tags_and_addresses_go_wherever_a_model_is_named(listed: Hub, tiny: Tower, tmp_path: Path, cli: Any) -> None:
    from aced.config import make_config
    from aced.train.run.frozen import load_frozen
    from aced.train.run.student import make_student
    from run_fakes import write_pairs

    listed.repos["org/whole"] = repository(tiny)
    mark = local(tmp_path / "local")["tower"]
    for ways in ({"model": "Tiny", "checkpoint": "quick_b4k"}, {"model": f"{HUB}org/whole"}):
        config = make_config(
            {"method": {"name": "fm-kd", "loss": "softmax"}, "student": ways, "reference": ways, "teacher": ways}
        )
        assert make_student(config).fingerprint() == mark
        assert {load_frozen(name, config).fingerprint() for name in ("reference", "teacher")} == {mark}
        words = [ways["model"], *(["--checkpoint", ways["checkpoint"]] if "checkpoint" in ways else [])]
        pool = write_pairs(tmp_path / "pool" / "0.tar", range(4))
        ended = cli("embed", *words, pool, "--out", tmp_path / "cache", "--threads", 1)
        assert ended.status == 0, ended.err
        assert [path.name for path in (tmp_path / "cache" / "embeddings").iterdir()] == [mark]
    refused = cli("eval", "Tiny", "--checkpoint", "plain_b5k", "--data", "scenes", "--out", tmp_path / "o")
    assert refused.status == 2
    assert "plain_b4k" in refused.err
    refused = cli("lit", f"{HUB}org/gone", "--data", "scenes", "--out", tmp_path / "o", "--threads", 1)
    assert refused.status == 2
    assert "org/gone" in refused.err


def test_older_lists_name_addresses(listed: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As open_clip before its version 3 has OpenAI's."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    url = f"{listed.address}/org/plain/resolve/main"
    tags = import_open_clip().pretrained._PRETRAINED["Tiny"]
    for name in ("weights.bin", "gone.bin"):
        monkeypatch.setitem(tags, name.removesuffix(".bin"), {**PIXELS, "url": f"{url}/{name}", "quick_gelu": True})
    cached = tmp_path / "home" / ".cache" / "clip"
    refused(f"{url}/gone.bin.*404.*by hand", "Tiny", "gone")
    assert not list(cached.iterdir())
    assert load_tower("Tiny", "weights").identity() == local(tmp_path / "local")
    assert [path.name for path in cached.iterdir()] == ["weights.bin"]


def test_a_token_is_sent_along(hub: Hub, tiny: Tower, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/tiny"], hub.gated = repository(tiny), {"org/tiny"}
    monkeypatch.setenv("HF_TOKEN", "let me in")
    load_tower(f"{HUB}org/tiny")
    assert set(hub.tokens) == {"let me in"}


def test_the_environment_reaches_the_client(hub: Hub, tiny: Tower, tmp_path: Path) -> None:
    hub.repos["org/tiny"] = repository(tiny)
    code = f"import aced; print(aced.load_tower('{HUB}org/tiny').fingerprint())"
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "mine"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == local(tmp_path / "local")["tower"]
    sent = {token for token, (_, path) in zip(hub.tokens, hub.asked, strict=True) if "resolve" in path}
    assert sent == {"mine"}
    assert (tmp_path / "home" / "hub" / "models--org--tiny").is_dir()


# -- answers that are of no use ------------------------------------------------------------------------------------


def refused(words: str, model: str = f"{HUB}org/tiny", checkpoint: str = "") -> None:
    with pytest.raises(AcedError, match=words) as caught:
        load_tower(model, checkpoint)
    said = str(caught.value)
    assert said.endswith((".", "?"))
    assert "\n" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("fault", ["short", "changed"])
def test_a_damaged_download_is_refused_and_not_kept(fault: str, listed: Hub, tmp_path: Path) -> None:
    getattr(listed, fault).add(SAFE)
    refused(f"{SAFE} of org/tiny.*try again", "Tiny", "quick_b4k")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    getattr(listed, fault).clear()
    assert load_tower("Tiny", "quick_b4k").identity() == local(tmp_path / "local")


def test_what_is_missing_is_named(listed: Hub, tiny: Tower) -> None:
    listed.repos["org/tiny"].clear()
    refused(f"org/tiny.*{SAFE}", "Tiny", "quick_b4k")
    refused("org/tiny.*open_clip_config.json")
    refused("no repository org/gone", f"{HUB}org/gone")
    refused("no repository org/gone", f"{HUB}org/gone@v1")
    listed.repos["org/tiny"] = repository(tiny)
    refused("revision 'v1'", f"{HUB}org/tiny@v1")
    del listed.repos["org/tiny"][SAFE]
    refused(f"org/tiny.*has no {SAFE}")
    refused("hf-hub:ORG", f"{HUB}a/b/c")


def test_what_is_not_given_out_names_the_page_and_the_file(hub: Hub, tiny: Tower) -> None:
    hub.repos["org/tiny"], hub.gated = repository(tiny), {"org/tiny"}
    refused(f"{hub.address}/org/tiny.*HF_TOKEN.*{hub.address}/org/tiny/resolve/main/open_clip_config.json")
    hub.gated, hub.private = set(), {"org/tiny"}
    refused("private.*HF_TOKEN")


def test_without_a_network_the_cache_is_all_there_is(
    listed: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_tower("Tiny", "quick_b4k")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(listed.asked)
    assert load_tower("Tiny", "quick_b4k").identity() == local(tmp_path / "local")
    refused(f"HF_HUB_OFFLINE.*{listed.address}/org/plain/.*weights.*plain_b4k", "Tiny", "plain_b4k")
    assert len(listed.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    listed.failing = 503
    assert load_tower("Tiny", "quick_b4k").identity() == local(tmp_path / "local")
    refused(f"{listed.address} .*HF_ENDPOINT.*plain_b4k", "Tiny", "plain_b4k")


def test_a_cache_that_cannot_be_written_is_named(listed: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    refused(f"{tmp_path / 'cache'}.*HF_HOME", "Tiny", "quick_b4k")


def test_code_of_its_own_is_never_run(hub: Hub, tmp_path: Path) -> None:
    own = {"model_type": "clip", "auto_map": {"AutoModel": "modeling.Model"}}
    hub.repos["org/code"] = {"config.json": json.dumps(own).encode(), "modeling.py": b"raise SystemExit"}
    refused("org/code.*code", f"{HUB}org/code")
    hub.repos["org/hf"] = {"config.json": json.dumps({"model_type": "clip"}).encode()}
    refused("transformers", f"{HUB}org/hf")
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text(json.dumps({"model_type": "ours", "auto_map": {"AutoModel": "m.M"}}))
    config = {**SMALL, "text_cfg": {"hf_model_name": str(text), "vocab_size": 450}}
    refused("code", str(write_config(tmp_path / "c.json", config)))


@pytest.mark.parametrize(
    ("model", "tag", "words"),
    [
        ("Tiny", "quik_b4k", "'quick_b4k'"),
        ("Tiny", "laion2b_s34b_b79k", "of ViT-B-32.*Tiny has quick_b4k"),
        ("ViT-S-32", "openai", "of RN50.*ViT-S-32 has no weights"),
        ("ViT-S-32", "mine", "no checkpoint mine"),
        ("Tiny", "quick_b4k.pt", r"no checkpoint quick_b4k\.pt"),
        ("Tiny", "gone/quick_b4k", "no checkpoint gone/quick_b4k"),
    ],
)
def test_a_tag_that_there_is_not(model: str, tag: str, words: str, listed: Hub) -> None:
    refused(words, model, tag)
    assert not listed.asked


def test_a_tag_goes_with_a_name(listed: Hub, tmp_path: Path) -> None:
    refused("architecture", str(write_config(tmp_path / "Tiny.json", TINY)), "quick_b4k")
    refused("Tiny.*checkpoint", "quick_b4k")
    assert not listed.asked


def test_a_text_tower_is_fetched_only_where_a_tag_or_address_was_named(
    hub: Hub, tiny: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip's HFTokenizer without the library behind it: what it reads is a folder."""
    from aced.models import pretrained

    open_clip = import_open_clip()
    found: list[dict[str, Any]] = []

    class Tokenizer(open_clip.SimpleTokenizer):  # type: ignore[misc, name-defined]
        def __init__(self, place: str, context_length: int, **options: Any) -> None:
            super().__init__(context_length=context_length)
            found.append({**options, "files": sorted(path.name for path in Path(place).iterdir())})

    config = {**TINY, "text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "org/words"}}
    hub.repos["org/tiny"] = repository(tiny, **{"open_clip_config.json": json.dumps({"model_cfg": config}).encode()})
    hub.repos["org/words"] = {"tokenizer.json": b"{}", "README.md": b"", "model.safetensors": b"x" * 5000}
    refused("pip install transformers")
    assert not hub.fetched(SAFE)  # said before the large file is fetched
    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", Tokenizer)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: True)
    load_tower(f"{HUB}org/tiny")
    (options,) = found
    assert options["files"] == ["tokenizer.json"]
    assert (options["local_files_only"], options["trust_remote_code"]) == (True, False)
    refused("download", str(write_config(tmp_path / "c.json", config)))
