"""Images kept in memory and on disk: the same items, limits, staleness, and no copy for each loader process."""

from __future__ import annotations

import gc
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from tests.test_dataloaders import HYP, write_split
from utils import resources
from utils.dataset import image_cache
from utils.dataset.image_cache import ImageStore
from utils.dataset.items import LoadImagesAndLabels
from utils.dataset.shared_memory import SharedTensor, StoredFile, shared_memory
from utils.distributed import World
from utils.errors import InputError
from utils.log import LOGGER

NEEDED = 12 * 48 * 36 * 3  # bytes of the images of ``small``


@pytest.fixture
def small(tmp_path):
    """Twelve images of 48 x 36 or 36 x 48."""
    return write_split(
        tmp_path, {f"{n:02}": (48, 36) if n % 2 else (36, 48) for n in range(12)}, "1 .5 .5 .4 .4\n0 .3 .3 .2 .2\n"
    )


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO")
    return caplog


def free_memory(monkeypatch, amount: int | None) -> None:
    monkeypatch.setattr(image_cache, "available_memory", lambda: amount)


# -- items ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["ram", "disk", "auto", True])
def test_cached_images_are_the_same_and_stay_unchanged(small, cache):
    for hyp in ({"hsv_v": 0.9, "fliplr": 0.5}, HYP):  # without mosaic and warp the image itself would be changed
        plain, cached = (
            LoadImagesAndLabels(small, 48, augment=True, hyp=hyp, cache_images=kind) for kind in (False, cache)
        )
        before = [image.copy() for image in cached.images]
        for index in range(12):
            pair = [dataset[index, index] for dataset in (plain, cached)]
            assert torch.equal(pair[0][0], pair[1][0]) and pair[0][3] == pair[1][3]
        assert all(np.array_equal(image, kept) for image, kept in zip(cached.images, before, strict=True))


def test_cached_images_cannot_be_written_to(small):
    image, _, _ = LoadImagesAndLabels(small, 48, cache_images="ram").load_image(3)
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0


def test_unknown_cache_is_refused(small):
    with pytest.raises(InputError, match=r"'tape'.*auto, ram, disk, none"):
        LoadImagesAndLabels(small, cache_images="tape")


# -- what fits -----------------------------------------------------------------------------------------------------


def test_images_that_do_not_fit_in_memory_are_refused(small, monkeypatch):
    free_memory(monkeypatch, NEEDED)
    with pytest.raises(InputError, match=r"do not fit in memory.*--cache disk"):
        LoadImagesAndLabels(small, 48, cache_images="ram")
    free_memory(monkeypatch, int(NEEDED / 0.75))
    assert LoadImagesAndLabels(small, 48, cache_images="ram").images is not None
    monkeypatch.setattr(
        "utils.dataset.image_cache.current_world", lambda: World(0, 0, 2, 2)
    )  # every process has its own
    with pytest.raises(InputError, match="do not fit in memory"):
        LoadImagesAndLabels(small, 48, cache_images="ram")


def test_images_are_kept_by_themselves_where_they_fit_comfortably(small, monkeypatch, log):
    def kept(amount: int | None) -> tuple[bool, str]:
        free_memory(monkeypatch, amount)
        log.clear()
        dataset = LoadImagesAndLabels(small, 48, cache_images="auto", prefix="train: ")
        return dataset.images is not None, log.messages[-1]

    assert kept(3 * NEEDED)[0] and "--cache none switches this off" in kept(3 * NEEDED)[1]
    refused, message = kept(int(NEEDED / 0.75))  # enough for --cache ram
    assert not refused and message.startswith("train: the images do not fit in memory") and "--cache disk" in message
    refused, message = kept(None)  # nobody knows how much is free
    assert not refused and "is unknown" in message and "do not fit" not in message and "--cache ram" in message
    monkeypatch.setattr("utils.dataset.image_cache.current_world", lambda: World(0, 0, 2, 2))
    assert not kept(3 * NEEDED)[0]


def test_memory_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "CONTROL_GROUP", tmp_path)
    free = resources.available_memory()
    assert free is None or free > 1e6
    for name, text in (
        ("memory.max", "5000"),
        ("memory.current", "4000"),
        ("memory.stat", "anon 9\ninactive_file 500"),
    ):
        (tmp_path / name).write_text(f"{text}\n")
    assert resources._left_in_control_group() == 1500
    assert free is None or resources.available_memory() == 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert resources._left_in_control_group() is None
    (tmp_path / "memory.max").unlink()  # control groups of version 1
    (tmp_path / "memory").mkdir()
    for name, text in (
        ("limit_in_bytes", "7000"),
        ("usage_in_bytes", "4000"),
        ("stat", "inactive_file 1\ntotal_inactive_file 600"),
    ):
        (tmp_path / f"memory/memory.{name}").write_text(f"{text}\n")
    assert resources._left_in_control_group() == 3600


# -- on disk -------------------------------------------------------------------------------------------------------


def stored(images: Path) -> list[Path]:
    return sorted(images.parent.glob("labels*.images"))


def test_disk_cache_is_used_again_while_nothing_changes(small, monkeypatch, log):
    first = LoadImagesAndLabels(small, 48, cache_images="disk")
    (place,) = stored(small)
    assert place.name == "labels.48.validation.images" and place.stat().st_size - NEEDED < 200
    written = place.stat().st_mtime_ns
    monkeypatch.setattr("utils.dataset.items.read_image", lambda *_: pytest.fail("decoded again"))
    again = LoadImagesAndLabels(small, 48, cache_images="disk")
    assert place.stat().st_mtime_ns == written and f"Using the decoded images of {place}" in log.messages[-1]
    assert all(torch.equal(first[index][0], again[index][0]) for index in range(12))


def test_disk_cache_is_made_again_when_an_image_changes(small, log):
    first = LoadImagesAndLabels(small, 48, cache_images="disk")
    cv2.imwrite(first.im_files[0], np.full((48, 36, 3), 200, np.uint8))
    later = os.stat(first.im_files[0]).st_mtime_ns + 10**9
    os.utime(first.im_files[0], ns=(later, later))
    dataset = LoadImagesAndLabels(small, 48, cache_images="disk")
    assert "it is written again" in log.text
    assert dataset.images[0].mean() == pytest.approx(200, abs=2)
    assert first.images[0].mean() != pytest.approx(200, abs=2)  # a run that is under way keeps its file
    assert len(stored(small)) == 1 and not list(small.parent.glob(".*"))  # no draft left


def test_disk_cache_follows_content_not_times(small, monkeypatch):
    file = small / "00.bmp"
    (small / "00.jpg").unlink()
    cv2.imwrite(str(file), np.full((48, 36, 3), 50, np.uint8))
    before = file.stat()
    LoadImagesAndLabels(small, 48, cache_images="disk")
    cv2.imwrite(str(file), np.full((48, 36, 3), 200, np.uint8))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert LoadImagesAndLabels(small, 48, cache_images="disk").images[0].mean() == 200
    os.utime(file)
    monkeypatch.setattr("utils.dataset.items.read_image", lambda *_: pytest.fail("decoded again"))
    assert LoadImagesAndLabels(small, 48, cache_images="disk").images[0].mean() == 200


def test_sizes_and_uses_have_files_of_their_own(small):
    LoadImagesAndLabels(small, 48, cache_images="disk")
    LoadImagesAndLabels(small, 32, cache_images="disk")
    training = LoadImagesAndLabels(small, 32, augment=True, cache_images="disk")
    assert [file.name.split(".")[1:3] for file in stored(small)] == [
        ["32", "training"], ["32", "validation"], ["48", "validation"]
    ]  # fmt: skip
    assert max(training.images[0].shape) == 32


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "zeroed"])
def test_damaged_disk_cache_is_made_again(small, damage, log):
    expected = LoadImagesAndLabels(small, 48, cache_images="disk")[0][0]
    (place,) = stored(small)
    content = place.read_bytes()
    end = len(content) - 4 * 12  # of the pixels; checksums follow
    damaged = {"cut": content[:-9], "other": b"?" * len(content), "empty": b"",
               "zeroed": content[: end - 100] + bytes(100) + content[end:]}  # fmt: skip
    assert content[end - 100 : end] != bytes(100)
    place.write_bytes(damaged[damage])
    assert torch.equal(LoadImagesAndLabels(small, 48, cache_images="disk")[0][0], expected)
    assert place.read_bytes() == content and "it is written again" in log.text


def test_images_that_do_not_fit_on_the_disk_are_refused(small, monkeypatch):
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="do not fit on the disk"):
        LoadImagesAndLabels(small, 48, cache_images="disk")
    assert not stored(small)


def test_a_place_that_cannot_be_written_to_is_named(small, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_cache, "atomic_path", refuse)
    with pytest.raises(InputError, match=r"cannot write .*images \(Permission denied\): leave out --cache disk"):
        LoadImagesAndLabels(small, 48, cache_images="disk")


# -- several processes ---------------------------------------------------------------------------------------------


def _look(store: ImageStore, answers: multiprocessing.Queue, go_on: multiprocessing.Event) -> None:
    """In another process: what the store shows before and after its owner writes to it."""
    answers.put(int(store[1][0, 0, 0]))
    go_on.wait(30)
    answers.put(int(store[1][0, 0, 0]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", [shared_memory, SharedTensor])
def test_processes_look_at_the_same_memory(method, kind):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    sizes = np.array([[4, 3], [5, 2]])
    memory = kind(66)
    memory.array[36:] = 7
    context = multiprocessing.get_context(method)
    answers, go_on = context.Queue(), context.Event()
    process = context.Process(target=_look, args=(ImageStore(memory, sizes), answers, go_on))
    process.start()
    assert answers.get(timeout=60) == 7
    memory.array[36:] = 9  # a copy would not notice
    go_on.set()
    assert answers.get(timeout=60) == 9
    process.join(60)
    assert process.exitcode == 0


def test_stored_file_is_small_when_it_is_sent(small):
    import pickle

    dataset = LoadImagesAndLabels(small, 48, cache_images="disk")
    sent = pickle.dumps(dataset)
    assert len(sent) < NEEDED / 4
    received = pickle.loads(sent)
    assert torch.equal(received[3][0], dataset[3][0])
    (place,) = stored(small)
    place.write_bytes(b"another run's")
    with pytest.raises(InputError, match="does not have the expected content"):
        pickle.loads(sent)
    with pytest.raises(InputError, match="cannot be read"):
        StoredFile(place.with_name("absent"), b"", 1)


@pytest.mark.slow
def test_memory_is_given_back(small):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("reads /proc")

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    dataset = LoadImagesAndLabels(small, 48, cache_images="ram")
    assert descriptors() > before
    del dataset
    assert descriptors() == before
