"""Finding images, reading and checking label files, and the cache of both."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.dataset.images import ORIENTATION_TAG, inspect_image, read_image
from utils.dataset.label_cache import cache_path, files_hash, load_labels, read_cache, scan
from utils.dataset.labels import (
    check_class_indices,
    class_weights,
    find_images,
    img2label_paths,
    parse_label_file,
    remove_duplicates,
    verify_image_label,
)
from utils.errors import InputError, MissingFileError
from utils.geometry.segments import resample_segments, segment2box, segments2boxes, xyn2xy


def add_image(root: Path, name: str, text: str | None = None, width: int = 40, height: int = 30) -> str:
    """Write images/``name`` and, if there is a text, its label file; return the image's path."""
    image = root / "images" / name
    image.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(0, 255, (height, width, 3), np.uint8)
    cv2.imwrite(str(image), cv2.blur(pixels, (5, 5)))
    if text is not None:
        label = Path(img2label_paths([str(image)])[0])
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    return str(image)


def verify(root: Path, text: str | None, name: str = "a.jpg"):
    image = add_image(root, name, text)
    return verify_image_label(image, img2label_paths([image])[0])


# -- finding -------------------------------------------------------------------------------------------------------


def test_label_path_rule():
    images = ["/a/images/b/images/c.d.jpg", "/a/imgs/x.jpg", "images/x.jpg", "/images/y/z.png"]
    expected = ["/a/images/b/labels/c.d.txt", "/a/imgs/x.txt", "images/x.txt", "/labels/y/z.txt"]
    assert img2label_paths([image.replace("/", os.sep) for image in images]) == [
        label.replace("/", os.sep) for label in expected
    ]


def test_find_images_in_folder_list_and_both(tmp_path):
    names = ["b.jpg", "sub/a.PNG", "[odd] name.jpeg"]
    for name in names:
        add_image(tmp_path, name)
    (tmp_path / "images" / "notes.md").write_text("no image")
    folder = tmp_path / "images"
    everything = sorted(str(folder / name) for name in names)
    assert find_images(folder) == everything
    listing = tmp_path / "list.txt"
    listing.write_text(f"./images/b.jpg\n\n  {folder / 'sub' / 'a.PNG'} \r\n./images/sub/../b.jpg\n")
    listed = [str(folder / "b.jpg"), str(folder / "sub" / "a.PNG"), str(folder / "sub" / ".." / "b.jpg")]
    assert find_images(str(listing)) == sorted(listed)
    assert set(find_images([folder, listing])) == set(everything) | set(listed)
    assert find_images([folder, folder]) == everything  # each once


def test_find_images_refuses_what_is_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="absent"):
        find_images(tmp_path / "absent")
    with pytest.raises(InputError, match="no images"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="no images"):
        find_images([])


# -- label files ---------------------------------------------------------------------------------------------------


def test_boxes_and_polygons_of_one_file_stay_what_they_are(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("1 .5 .5 .2 .2\n\n0 .1 .1 .3 .1 .3 .5 \n")
    rows, segments = parse_label_file(file)
    np.testing.assert_allclose(rows, [[1, 0.5, 0.5, 0.2, 0.2], [0, 0.2, 0.3, 0.2, 0.4]], atol=1e-6)
    assert rows.dtype == np.float32
    assert segments[0] is None
    np.testing.assert_allclose(segments[1], [[0.1, 0.1], [0.3, 0.1], [0.3, 0.5]], atol=1e-6)


def test_box_file_has_no_segments(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\ufeff0 .5 .5 .2 .2\n1 1 1 1 1")
    rows, segments = parse_label_file(file)
    assert rows.shape == (2, 5) and segments == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .2", "line 2 has 4 fields"),
        ("0 .5 .5 .2 .2 .9", "line 2 has 6 fields"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "line 2 has 8 fields"),
        ("cat .5 .5 .2 .2", "line 2: expected numbers with spaces between them, got 'cat'"),
        ("0,.5,.5,.2,.2", "line 2: expected numbers with spaces between them, got '0,.5,.5,.2,.2'"),
        ("-1 .5 .5 .2 .2", "line 2: class -1"),
        ("1.5 .5 .5 .2 .2", "line 2: class 1.5"),
        ("nan .5 .5 .2 .2", "line 2: class nan"),
        ("0 .5 .5 -.2 .2", "line 2: box"),
        ("0 1.01 .5 .2 .2", "line 2: box"),
        ("0 nan .5 .2 .2", "line 2: box"),
        ("0 .5 .5 inf .2", "line 2: box"),
    ],
)
def test_bad_line_is_named_and_the_image_left_out(tmp_path, line, message):
    record = verify(tmp_path, f"0 .5 .5 .1 .1\n{line}\n")
    assert (record.usable, record.found, record.corrupt) == (False, 1, 1)
    with pytest.raises(InputError, match=message):
        parse_label_file(tmp_path / "labels" / "a.txt")
    assert "a.txt" in record.message and "line 2" in record.message


def test_duplicates_leave_with_their_polygons():
    triangle = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.5]], np.float32)
    row = [2, 0.2, 0.3, 0.2, 0.4]
    rows, segments, dropped = remove_duplicates(
        np.array([row, [1, 0.5, 0.5, 0.1, 0.1], row], np.float32), [triangle, None, triangle]
    )
    assert dropped == 1
    np.testing.assert_allclose(rows[:, 0], [1, 2])  # sorted
    assert segments[0] is None and segments[1] is triangle


@pytest.mark.parametrize(
    ("text", "counts"),
    [("0 .5 .5 .2 .2", (1, 0, 0, 0)), (None, (0, 1, 0, 0)), ("", (1, 0, 1, 0)), (" \n\n", (1, 0, 1, 0))],
)
def test_situations_of_good_images(tmp_path, text, counts):
    record = verify(tmp_path, text)
    assert record.usable and record.size == (40, 30)
    assert (record.found, record.missing, record.empty, record.corrupt) == counts
    assert record.labels.shape == (int(text is not None and "0" in text), 5) and record.message == ""


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_label_that_is_not_a_file_is_no_background(tmp_path, kind):
    image = add_image(tmp_path, "a.jpg", None)
    label = Path(img2label_paths([image])[0])
    label.parent.mkdir(exist_ok=True)
    if kind == "folder":
        label.mkdir()
    else:
        label.symlink_to(tmp_path / "nowhere.txt")
    record = verify_image_label(image, str(label))
    assert (record.usable, record.missing, record.corrupt) == (False, 0, 1)
    assert f"{label}: is a folder, a broken link or a special file" in record.message


def test_where_no_image_is_usable_the_first_is_named(tmp_path):
    image = add_image(tmp_path, "a.jpg", None)
    Path(image).write_bytes(b"")
    with pytest.raises(
        InputError, match=r"none of the 1 images of .* is usable; the first is .*a\.jpg: is empty"
    ) as error:
        load_labels(str(Path(image).parent))
    assert "WARNING" not in str(error.value)


# -- image files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height", "usable"), [(10, 10, True), (9, 40, False), (40, 9, False)])
def test_smallest_size(tmp_path, width, height, usable):
    image = add_image(tmp_path, "a.png", None, width, height)
    assert verify_image_label(image, "absent.txt").usable is usable


def test_unreadable_images_are_named_and_left_out(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "gif.jpg", format="GIF")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name in ("gif.jpg", "text.jpg", "empty.png", "absent.jpg"):
        record = verify_image_label(str(tmp_path / name), "absent.txt")
        assert (record.usable, record.corrupt, record.found, record.missing) == (False, 1, 0, 0)
        assert name in record.message


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_measured_size_is_that_of_the_decoded_image(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    file = tmp_path / f"a.{suffix}"
    Image.new("RGB", (50, 30)).save(file, exif=exif)
    (width, height), _ = inspect_image(file)
    assert read_image(file).shape == (height, width, 3)
    assert suffix == "tiff" or (width, height) == ((30, 50) if orientation > 4 else (50, 30))


@pytest.mark.parametrize(
    ("cut", "added", "remark"), [(2, b"", "cut off"), (300, b"", "cut off"), (0, b"tail", "after its end")]
)
def test_damaged_jpeg_is_repaired_in_memory_only(tmp_path, cut, added, remark):
    image = add_image(tmp_path, "a.jpg", "0 .5 .5 .2 .2", 80, 60)
    whole = read_image(image)
    content = Path(image).read_bytes()
    content = content[: len(content) - cut] + added
    Path(image).write_bytes(content)
    record = verify_image_label(image, img2label_paths([image])[0])
    assert record.usable and remark in record.message and image in record.message
    assert Path(image).read_bytes() == content
    assert read_image(image).shape == whole.shape
    if cut <= 2:
        np.testing.assert_array_equal(read_image(image), whole)


def test_jpeg_without_any_pixels_is_corrupt(tmp_path):
    image = add_image(tmp_path, "a.jpg")
    Path(image).write_bytes(Path(image).read_bytes()[:200])
    record = verify_image_label(image, "absent.txt")
    assert not record.usable and image in record.message


# -- cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path):
    """Four images of all kinds in images/train.v1, labels in labels/train.v1."""
    add_image(tmp_path, "train.v1/a.jpg", "1 .5 .5 .2 .2\n0 .1 .1 .3 .1 .3 .5\n1 .5 .5 .2 .2")
    add_image(tmp_path, "train.v1/b.jpg", "0 .5 .5 .2 .2", width=64)
    add_image(tmp_path, "train.v1/c.jpg")
    add_image(tmp_path, "train.v1/d.jpg", "0 .5 .5 7 .2")
    return tmp_path / "images" / "train.v1"


def same(first, second) -> bool:
    def flat(table):
        segments = [[None if p is None else p.tolist() for p in segments] for segments in table.segments]
        rows = [labels.tolist() for labels in table.labels]
        return list(table.images), table.sizes.tolist(), rows, segments, table.counts, table.messages

    return flat(first) == flat(second)


def test_cache_gives_the_scan_back(split):
    table, cache = load_labels(split)
    assert cache == split.parents[1] / "labels" / "train.v1.cache"
    assert table.counts == {"found": 3, "missing": 1, "empty": 0, "corrupt": 1}
    assert [Path(image).name for image in table.images] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(table.messages) == 2
    images = find_images(split)
    stored = read_cache(cache, files_hash([*img2label_paths(images), *images]))
    assert stored is not None and same(stored, table)
    assert all(labels.dtype == np.float32 and labels.shape[1] == 5 for labels in stored.labels)
    assert stored.segments[0][1] is None or stored.segments[0][0] is None  # a box beside a polygon
    assert sorted(path.name for path in cache.parent.iterdir()) == ["train.v1", "train.v1.cache"]  # no draft left


def test_valid_cache_saves_the_scan(split, monkeypatch):
    first, _ = load_labels(split)
    monkeypatch.setattr("utils.dataset.label_cache.scan", lambda *_: pytest.fail("scanned again"))
    second, _ = load_labels(split)
    assert same(first, second)


def test_change_of_same_length_is_noticed(split):
    load_labels(split)
    label = split.parents[1] / "labels" / "train.v1" / "b.txt"
    label.write_text("1 .5 .5 .2 .2")
    status = label.stat()
    os.utime(label, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    table, _ = load_labels(split)
    assert table.labels[1][0, 0] == 1


@pytest.mark.parametrize("damage", ["cut", "garbage", "foreign", "empty"])
def test_damaged_cache_is_rebuilt(split, damage):
    first, cache = load_labels(split)
    content = cache.read_bytes()
    if damage == "foreign":  # v6.2's: a pickle, which must not be opened
        with open(cache, "wb") as stream:
            np.save(stream, np.array({"version": 0.6}, dtype=object), allow_pickle=True)
    else:
        cache.write_bytes({"cut": content[: len(content) // 2], "garbage": b"?" * 99, "empty": b""}[damage])
    second, _ = load_labels(split)
    assert same(first, second)
    assert cache.read_bytes()[:2] == b"PK"


def test_cache_with_parts_that_do_not_fit_is_refused(split):
    _, cache = load_labels(split)
    with np.load(cache) as archive:
        arrays = dict(archive)
    digest = json.loads(arrays["header"].tobytes())["hash"]
    assert read_cache(cache, digest) is not None
    arrays["labels"] = arrays["labels"][:-1]
    with open(cache, "wb") as stream:
        np.savez(stream, **arrays)
    assert read_cache(cache, digest) is None


def test_unwritable_place_is_survived(split, monkeypatch, caplog):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("utils.dataset.label_cache.atomic_path", refuse)
    monkeypatch.setattr("utils.dataset.label_cache.LOGGER.propagate", True)
    table, cache = load_labels(split)
    assert len(table.images) == 3 and not cache.exists()
    assert any("cannot write the label cache" in record.message for record in caplog.records)


def test_nothing_is_said_of_a_cache_where_no_labels_are(tmp_path, heard):
    add_image(tmp_path, "train/a.jpg")
    table, cache = load_labels(tmp_path / "images/train")
    assert table.counts["missing"] == 1 and not cache.parent.exists()
    assert "cannot write" not in heard.text


def test_cache_place(tmp_path, monkeypatch):
    (tmp_path / "train.txt").touch()
    assert cache_path(tmp_path / "train.txt", ["/a/labels/x.txt"]) == tmp_path / "train.cache"
    assert cache_path([tmp_path], [str(tmp_path / "labels" / "v1.0" / "x.txt")]) == tmp_path / "labels" / "v1.0.cache"
    monkeypatch.chdir(tmp_path)
    assert cache_path(".", ["x.txt"]) == Path(f"{tmp_path}.cache")


def test_nothing_usable_is_an_error_naming_the_first_problem(tmp_path):
    add_image(tmp_path, "a.jpg", "0 .5 .5 7 .2")
    with pytest.raises(InputError, match=r"none of the 1 images.*a\.txt: line 1"):
        load_labels(tmp_path / "images")


def test_processes_find_the_same(split, monkeypatch):
    images = find_images(split)
    alone = scan(images, img2label_paths(images))
    monkeypatch.setattr("utils.dataset.label_cache.POOL_FROM_IMAGES", 1)
    monkeypatch.setattr("utils.dataset.label_cache.os.cpu_count", lambda: 3)
    assert same(alone, scan(images, img2label_paths(images)))


# -- classes -------------------------------------------------------------------------------------------------------


def test_class_out_of_range_names_file_line_and_range(tmp_path):
    file = tmp_path / "b.txt"
    file.write_text("0 .5 .5 .1 .1\n\n3 .5 .5 .2 .2\n")
    rows, _ = parse_label_file(file)
    labels, files = [np.zeros((0, 5)), rows], ["a.txt", str(file)]
    check_class_indices(labels, files, 4, ["a", "b", "c", "d"])
    with pytest.raises(InputError, match=r"b\.txt, line 3: class 3, expected 0 to 1 \(cat, dog\)") as caught:
        check_class_indices(labels, files, 2, {0: "cat", 1: "dog"})
    assert "\n" not in str(caught.value)


def test_class_weights_are_inverse_to_counts():
    labels = [np.array([[0, 0, 0, 0, 0]] * 3), np.zeros((0, 5)), np.array([[2, 0, 0, 0, 0]])]
    weights = class_weights(labels, 3).numpy()
    np.testing.assert_allclose(weights, np.array([1 / 3, 1, 1]) / (7 / 3), rtol=1e-6)
    np.testing.assert_allclose(class_weights([], 2).numpy(), [0.5, 0.5])


# -- polygons ------------------------------------------------------------------------------------------------------


def test_segment_helpers():
    corner = np.array([[0, 0], [10, 0], [10, 10.0]])
    resampled = resample_segments([corner])[0]
    assert resampled.shape == (1000, 2)
    np.testing.assert_allclose(resampled[[0, 333, 500, 999]], [[0, 0], [10, 0], [10, 5.015], [0, 0]], atol=1e-3)
    np.testing.assert_allclose(segments2boxes([corner]), [[5, 5, 10, 10]])
    np.testing.assert_allclose(segment2box(np.array([[2, 3], [5, 9], [700, 4]]), 640, 640), [2, 3, 5, 9])
    np.testing.assert_array_equal(segment2box(np.array([[-1, 3], [5, 700]]), 640, 640), np.zeros(4))
    np.testing.assert_allclose(xyn2xy(np.array([[0.5, 0.25]]), 100, 80, 10, -5), [[60, 15]])
