"""Promises of the scan about image files, and what the decoder keeps of them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.dataset.image_headers import ORIENTATION_TAG, jpeg_size, png_size
from utils.dataset.images import LARGEST_PIXELS_VARIABLE, inspect_image, read_image
from utils.dataset.labels import verify_image_label
from utils.errors import InputError

SIZE = (90, 120)  # width, height


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def pictures() -> dict[str, bytes]:
    """One file of each kind that data sets have."""
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8), (0, 0), 2)
    colour, exif = Image.fromarray(pixels), Image.Exif()
    exif[ORIENTATION_TAG], exif[271] = 6, "a camera with a long name"
    restarts = [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    return {
        "plain.jpg": encoded(colour, "JPEG"),
        "turned.jpg": encoded(colour, "JPEG", exif=exif),
        "progressive.jpg": encoded(colour, "JPEG", progressive=True),
        "full_colour.jpg": encoded(colour, "JPEG", optimize=True, subsampling=0),
        "grey.jpg": encoded(colour.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG"),
        "restarts.jpg": cv2.imencode(".jpg", pixels, restarts)[1].tobytes(),
        "two.mpo": encoded(colour, "MPO", save_all=True, append_images=[colour]),
        "plain.png": encoded(colour, "PNG"),
        "turned.png": encoded(colour, "PNG", exif=exif),
        "palette.png": encoded(colour.convert("P"), "PNG"),
        "transparent.png": encoded(colour.convert("RGBA"), "PNG"),
        "one_bit.png": encoded(colour.convert("1"), "PNG"),
        "sixteen_bit.png": cv2.imencode(".png", pixels.astype(np.uint16) * 256)[1].tobytes(),
        "plain.bmp": encoded(colour, "BMP"),
        "plain.tif": encoded(colour, "TIFF"),
        "lzw.tif": encoded(colour, "TIFF", compression="tiff_lzw"),
        "float.tif": encoded(colour.convert("F"), "TIFF"),
        "plain.webp": encoded(colour, "WEBP"),
        "lossless.webp": encoded(colour, "WEBP", lossless=True),
    }


def damaged(content: bytes, chance: np.random.Generator) -> bytes:
    """Bits turned in the head, bytes replaced anywhere, cut off, or some bytes missing."""
    result, kind = bytearray(content), chance.integers(4)
    if kind == 0:
        for place in chance.integers(0, min(len(result), 800), chance.integers(1, 4)):
            result[place] ^= 1 << chance.integers(8)
    elif kind == 1:
        for place in chance.integers(0, len(result), chance.integers(1, 20)):
            result[place] = chance.integers(256)
    elif kind == 2:
        del result[chance.integers(len(result)) :]
    else:
        place = chance.integers(len(result))
        del result[place : place + chance.integers(1, 40)]
    return bytes(result)


@pytest.mark.slow
def test_what_passes_the_scan_is_decoded_with_the_size_that_it_found(tmp_path):
    kinds, chance, passed = list(pictures().items()), np.random.default_rng(1), 0
    for number in range(1000):
        name, content = kinds[number % len(kinds)]
        file = tmp_path / name
        file.write_bytes(damaged(content, chance))
        try:
            size, _ = inspect_image(file)
        except InputError:
            continue
        passed += 1
        assert read_image(file).shape == (*size[::-1], 3), number
    assert 300 < passed < 900


def test_good_pictures_are_measured_as_they_are_decoded(tmp_path):
    for name, content in pictures().items():
        file = tmp_path / name
        file.write_bytes(content)
        if name == "float.tif":
            with pytest.raises(InputError, match="OpenCV does not support"):
                inspect_image(file)
            continue
        size, remark = inspect_image(file)
        assert (size, remark) == (SIZE[::-1] if name.startswith("turned") else SIZE, ""), name
        assert read_image(file).shape == (*size[::-1], 3), name


def test_common_files_are_measured_without_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.dataset.images.cv2.imdecode", lambda *_: pytest.fail("decoded"))
    for name, content in pictures().items():
        if Path(name).suffix in (".jpg", ".png") and name not in ("cmyk.jpg", "turned.png"):
            (tmp_path / name).write_bytes(content)
            inspect_image(tmp_path / name)


@pytest.mark.parametrize("name", ["plain.png", "plain.bmp", "plain.tif", "lzw.tif", "plain.webp", "lossless.webp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_picture_that_is_cut_off_is_corrupt(tmp_path, capfd, name, part):
    file, content = tmp_path / name, pictures()[name]
    file.write_bytes(content[: int(len(content) * part)])
    record = verify_image_label(str(file), "absent.txt")
    assert (record.usable, record.corrupt) == (False, 1)
    assert record.message.startswith(f"WARNING: ignoring {file}: cannot be decoded as an image: the file is damaged")
    with pytest.raises(InputError, match=name):
        read_image(file)
    assert "OpenCV" not in capfd.readouterr().err


def test_other_content_is_named(tmp_path):
    avif = b"\0\0\0\x1cftypavif\0\0\0\0"
    kinds = {b"GIF89a....": "GIF", b"  <!DOCTYPE html>": "HTML", bytes(500): "zero bytes", avif: "AVIF", b"words": "no"}
    for content, name in kinds.items():
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(InputError, match=f"its content is .*{name}"):
            inspect_image(tmp_path / "a.jpg")


def test_a_suffix_may_be_wrong(tmp_path):
    (tmp_path / "a.jpg").write_bytes(pictures()["plain.webp"])
    assert inspect_image(tmp_path / "a.jpg") == (SIZE, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for function in (inspect_image, read_image):
        with pytest.raises(InputError, match="not a regular file"):
            function(tmp_path / "a.jpg")


@pytest.mark.slow
def test_more_pixels_than_pillow_allows_are_fine(tmp_path):
    Image.new("1", (20000, 10000)).save(tmp_path / "aerial.png")
    assert inspect_image(tmp_path / "aerial.png") == ((20000, 10000), "")


def test_more_pixels_than_opencv_allows_are_refused_alike_everywhere(tmp_path, monkeypatch):
    content = pictures()["plain.png"]
    head = b"IHDR" + struct.pack(">II", 40000, 40000) + content[24:29]
    file = tmp_path / "huge.png"
    file.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])
    for function in (inspect_image, read_image):
        with pytest.raises(
            InputError, match=f"pixels, at most {1 << 30} in all .* tiles, or set {LARGEST_PIXELS_VARIABLE}"
        ):
            function(file)
    monkeypatch.setenv(LARGEST_PIXELS_VARIABLE, str(1 << 31))  # read by OpenCV when it is loaded
    assert inspect_image(file) == ((40000, 40000), "")


def test_heads_that_only_a_decoder_understands():
    jpeg, png = pictures()["plain.jpg"], pictures()["plain.png"]
    assert jpeg_size(jpeg) == png_size(png) == SIZE
    assert all(jpeg_size(jpeg[:length]) is None for length in range(2, 600))
    assert all(png_size(png[:length]) is None for length in range(8, len(png), 97))
    assert jpeg_size(jpeg.replace(b"\xff\xc0", b"\xff\xc9")) is None  # arithmetic coding
    assert png_size(png.replace(b"IDAT", b"JDAT")) is None
