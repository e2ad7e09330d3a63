import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_fakes import picture
from PIL import Image

from aced.pool import images
from aced.pool.images import ImageFault, decode_image, decode_like_pillow, decode_noted
from aced.pool.tars.tars import list_tar
from aced.pool.views import View, crop_box


def encoded(pixels: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, form, **options)
    return out.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    seeds = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(seeds).resize((61, 47), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpegs_are_decoded_bit_for_bit_as_by_pillow(pixels, mode, progressive, subsampling):
    for quality in (20, 80, 95):
        content = encoded(pixels, "JPEG", mode, quality=quality, progressive=progressive, subsampling=subsampling)
        assert np.array_equal(decode_image(content), by_pillow(content))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "1"])
def test_other_formats_and_modes_are_as_by_pillow(pixels, form, mode):
    content = encoded(pixels, form, mode)
    found = decode_image(content)
    assert found.shape == (47, 61, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, by_pillow(content))


def test_16_bit_grey_is_scaled_and_not_clipped():
    grey = np.linspace(0, 65535, 24, dtype=np.uint16).reshape(4, 6)
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "PNG")
    found = decode_image(out.getvalue())
    assert np.array_equal(found, np.repeat(np.round(grey / 257).astype(np.uint8)[:, :, None], 3, axis=2))
    assert found.max() == 255
    assert len(np.unique(found)) == 24


def test_fast_path_is_used_for_ordinary_jpegs(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(images, "_decode_any", refuse)
    decode_image(picture(1))


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    body = b"IDAT" + zlib.compress(b"\0" * 10)
    return data + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


JPEG = encoded(np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8), "JPEG")
FAULTS = {
    "no bytes": (b"", "image_empty"),
    "a web page": (b"<html><body>404</body></html>", "image_unreadable"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image_unreadable"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "image_truncated"),
    "a jpeg without its last bytes": (JPEG[:-2], "image_truncated"),
    "a jpeg with a tail of zeros": (JPEG[: len(JPEG) // 2] + bytes(len(JPEG) // 2), "image_truncated"),
    "a jpeg that ends early": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "image_truncated"),
    "a jpeg cut in its header": (JPEG[:30], "image_truncated"),
    "half a png": (picture(0, "PNG")[:200], "image_truncated"),
    "a png of 900 million pixels": (png_header(30_000, 30_000), "image_too_large"),
    "a png of 90 million pixels": (png_header(10_000, 9_000), "image_too_large"),
    "a strip": (encoded(np.zeros((1, 21, 3), np.uint8), "PNG"), "image_aspect"),
    "a jpeg strip": (encoded(np.zeros((210, 10, 3), np.uint8), "JPEG"), "image_aspect"),
    "a strip header only": (png_header(30_000, 1), "image_aspect"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_every_fault_has_its_name(case: str):
    content, name = FAULTS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageFault) as caught:
            decode_image(content)
    assert caught.value.name == name
    assert str(caught.value)


def test_a_cmyk_jpeg_with_a_missing_part_is_refused_too(pixels):
    content = encoded(pixels, "JPEG", "CMYK")
    with pytest.raises(ImageFault) as caught:
        decode_image(content[: len(content) // 2])
    assert caught.value.name == "image_truncated"


def test_what_is_odd_but_whole_is_read():
    assert np.array_equal(decode_image(JPEG + b"trailing bytes"), by_pillow(JPEG))
    assert np.array_equal(decode_image(JPEG[:-2] + b"\x12\x34\x56" + JPEG[-2:]), by_pillow(JPEG))
    assert decode_image(encoded(np.zeros((1, 1, 3), np.uint8), "PNG")).shape == (1, 1, 3)
    assert decode_image(encoded(np.zeros((1, 20, 3), np.uint8), "PNG")).shape == (1, 20, 3)


def test_damaged_bytes_give_pixels_or_a_fault_and_nothing_else():
    draw = np.random.default_rng(0)
    outcomes = {"pixels": 0, "fault": 0}
    for form in ("JPEG", "PNG", "WEBP"):
        whole = picture(3, form)
        for _ in range(100):
            content = bytearray(whole)
            for place in draw.integers(0, min(400, len(content)), 3):
                content[place] = draw.integers(256)
            try:
                assert decode_image(bytes(content)).shape[2] == 3
                outcomes["pixels"] += 1
            except ImageFault:
                outcomes["fault"] += 1
    assert min(outcomes.values()) > 20


def test_real_photos_are_decoded_as_by_pillow(shared_data: Path):
    tar = shared_data / "webmix" / "00003.tar"
    photos = [member for member in list_tar(tar).members if member.name.endswith(".jpg")][::40]
    content = tar.read_bytes()
    for member in photos:
        photo = content[member.offset : member.offset + member.size]
        assert np.array_equal(decode_image(photo), by_pillow(photo))
    assert len(photos) >= 50


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (64, 64), (50, 40)])
def test_scaled_decoding_gives_the_same_picture_and_never_too_few_pixels(size: tuple[int, int]):
    smooth = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC)
    content = encoded(np.asarray(image), "JPEG", quality=95)
    whole, scaled = decode_image(content), decode_noted(content, least=64)[0]
    assert min(scaled.shape[:2]) >= min(64, *size)
    assert max(scaled.shape) <= max(whole.shape)
    if min(size) > 128:
        assert scaled.size < whole.size / 3
    one, other = (View(64).apply(pixels).astype(int) for pixels in (whole, scaled))
    assert np.abs(one - other).mean() < 1.5
    if min(size) <= 64:
        assert np.array_equal(whole, scaled)


@pytest.mark.parametrize("crop", [0, 1, 2, 5])
def test_an_image_of_the_least_size_is_not_enlarged_by_any_crop(crop: int) -> None:
    view = View(64).cropped(crop)
    _, _, height, width = crop_box(crop, view.least, view.least) if crop else (0, 0, view.least, view.least)
    assert min(height, width) >= 64


def as_clip_benchmark(content: bytes) -> np.ndarray | None:
    """webdataset's `pil` decoding, which CLIP_benchmark uses; None where it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            image.load()
            return np.asarray(image.convert("RGB"))
    except Exception:
        return None


def zoo() -> dict[str, bytes]:
    """Whole, odd and damaged images of many kinds."""
    noise = np.random.default_rng(2).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    grey = np.linspace(0, 65535, 48, dtype=np.uint16).reshape(6, 8)
    found = {f"{form} {mode}": encoded(noise, form, mode) for form in ("PNG", "WEBP", "GIF", "TIFF") for mode in "LP"}
    found |= {
        "png 1": encoded(noise, "PNG", "1"),
        "png alpha": encoded(noise, "PNG", "RGBA"),
        "bmp": encoded(noise, "BMP"),
    }
    found |= {f"jpeg {mode}": encoded(noise, "JPEG", mode) for mode in ("RGB", "L", "CMYK")}
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "PNG")
    found["16 bit"] = out.getvalue()
    out = io.BytesIO()
    frames = [Image.fromarray(np.roll(noise, 9 * i, 0)) for i in range(3)]
    frames[0].save(out, "MPO", save_all=True, append_images=frames[1:])
    found["mpo"] = out.getvalue()
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    found["animated gif"] = out.getvalue()
    found |= {f"half of {name}": whole[: len(whole) // 2] for name, whole in found.items()}
    found |= {
        f"{name} with a hole before its end": found[name][:-62] + found[name][-2:] for name in ("jpeg RGB", "jpeg CMYK")
    }
    found |= {f"fault: {name}": content for name, (content, _) in FAULTS.items()}
    found["jpeg with trailing bytes"] = JPEG + b"more"
    return found


ZOO = zoo()


@pytest.mark.parametrize("case", ZOO)
def test_a_task_s_image_is_what_clip_benchmark_sees_or_a_fault(case: str):
    """Nothing is refused that Pillow reads, and nothing read that it refuses."""
    expected = as_clip_benchmark(ZOO[case])
    if expected is None:
        with pytest.raises(ImageFault) as caught:
            decode_like_pillow(ZOO[case])
        assert caught.value.name in ("image_empty", "image_truncated", "image_unreadable", "image_too_large")
        return
    pixels, notes = decode_like_pillow(ZOO[case])
    assert np.array_equal(pixels, expected)
    # What a pool refuses, but for its size, is scored here and said.
    told = {name for name, _ in notes} | {"image_too_large"}
    with contextlib.suppress(ImageFault):
        decode_noted(ZOO[case])
        return
    with pytest.raises(ImageFault) as refused:
        decode_noted(ZOO[case])
    assert refused.value.name in told


def test_the_zoo_has_both():
    outcomes = [as_clip_benchmark(content) is None for content in ZOO.values()]
    assert min(sum(outcomes), len(outcomes) - sum(outcomes)) >= 10


def test_pillow_s_switch_for_cut_files_is_left_alone():
    from PIL import ImageFile

    for content in ZOO.values():
        try:
            decode_like_pillow(content)
        except ImageFault:
            continue
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
