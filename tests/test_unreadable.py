"""Images that go bad after the scan: training and validation go on without them, exactly, and say so once."""

from __future__ import annotations

import errno
import io
import logging
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.test_dataloaders import HYP, write_split
from utils.dataloaders import create_dataloader
from utils.dataset.items import LoadImagesAndLabels
from utils.dataset.label_cache import load_labels
from utils.dataset.unreadable import LeftOut, UnreadableError
from utils.errors import InputError, loader_failure
from utils.log import LOGGER
from utils.storage.files import ROOT


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setattr("utils.log._said", set())
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def small(tmp_path) -> Path:
    """Twelve images with a label each; returns the folder of the images."""
    return Path(write_split(tmp_path, {f"{number:02}": (36, 48) for number in range(12)}))


def make_bad_png(file: Path) -> None:
    """A PNG whose checksums are right and whose compressed pixels are not: only a decoder finds out."""
    content = cv2.imencode(".png", np.full((48, 36, 3), 90, np.uint8))[1].tobytes()
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    data = b"IDAT" + bytes(length)
    file.write_bytes(content[:start] + data + struct.pack(">I", zlib.crc32(data)) + content[start + 8 + length :])


def spoil(file: Path, how: str) -> None:
    """Let the image vanish, be cut off, or be replaced by one of another size."""
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(b"\x89PNG\r\n\x1a\n")
    else:
        file.write_bytes(cv2.imencode(".jpg", np.zeros((20, 70, 3), np.uint8))[1].tobytes())


def loader_of(images: Path, **options):
    return create_dataloader(str(images), 64, 4, 32, hyp=HYP, **{"workers": 0, "cache": "none", **options})


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "cut", "other"])
@pytest.mark.parametrize("workers", [0, 2])
def test_validation_does_not_count_it(small, log, monkeypatch, how, workers):
    monkeypatch.setattr("utils.dataloaders.usable_cores", lambda: 4)
    loader, dataset = loader_of(small, rect=True, workers=workers)
    whole = [path for _, _, paths, _ in loader for path in paths]
    assert len(whole) == 12
    bad = Path(dataset.im_files[5])
    spoil(bad, how)
    for _ in range(2):
        batches = list(loader)
        paths = [path for _, _, paths, _ in batches for path in paths]
        assert paths == [path for path in whole if path != str(bad)]
        assert [len(images) for images, *_ in batches] == [4, 3, 4]
        assert all(int(rows[:, 0].max()) == len(images) - 1 for images, rows, *_ in batches)
    if not workers:  # a worker writes to the log of its own
        assert [str(bad) in text for text in log.messages if "left out from now on" in text] == [True]
    table, _ = load_labels(small)
    assert str(bad) not in table.images or how == "other"


def test_batches_without_any_image_are_not_given(small):
    loader, dataset = loader_of(small)
    for number in range(4, 8):
        Path(dataset.im_files[number]).unlink()
    assert [len(images) for images, *_ in loader] == [4, 4]


@pytest.mark.parametrize("options", [{"shuffle": True}, {"rect": True}, {"quad": True}])
def test_training_takes_the_next_image_with_the_same_random_numbers(small, options):
    def epoch(images: Path) -> list:
        return list(loader_of(images, augment=True, **options)[0])

    loader, dataset = loader_of(small, augment=True, **options)
    bad, successor = 3, 4
    (small / Path(dataset.im_files[bad]).name).unlink()
    after = list(loader)
    assert len(dataset) == 12 and bad in dataset.left_out
    # The same with the file's content exchanged for its successor's
    other, labels = Path(dataset.im_files[bad]), Path(dataset.label_files[bad])
    other.write_bytes(Path(dataset.im_files[successor]).read_bytes())
    labels.write_text(Path(dataset.label_files[successor]).read_text())
    expected = epoch(small)
    for (images, rows, paths, _), (other_images, other_rows, other_paths, _) in zip(after, expected, strict=True):
        assert torch.equal(images, other_images) and torch.equal(rows, other_rows)
        assert len(paths) == len(other_paths)


def test_training_without_any_image_left_ends_in_one_line(small, monkeypatch):
    monkeypatch.setattr("utils.dataloaders.usable_cores", lambda: 4)
    for workers in (0, 2):
        loader, dataset = loader_of(small, augment=True, shuffle=True, workers=workers)
        hidden = [Path(image).rename(Path(image).with_suffix(".hidden")) for image in dataset.im_files]
        with pytest.raises(InputError, match=r"^none of the 12 images of .* can be read any more$"):
            list(loader)
        for file in hidden:
            file.rename(file.with_suffix(".jpg"))


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
@pytest.mark.parametrize("augment", [False, True])
def test_an_image_that_passes_the_scan_and_cannot_be_decoded(small, log, cache, augment):
    bad = small / "bad.png"
    make_bad_png(bad)
    label = small.parent / "labels" / "bad.txt"
    label.write_text("0 .5 .5 .2 .2\n")
    for count in (13, 12):  # the second time the label cache knows
        loader, dataset = loader_of(small, augment=augment, cache=cache, shuffle=augment)
        assert len(dataset) == (count if cache == "none" else 12)
        seen = {Path(path).name for _, _, paths, _ in loader for path in paths}
        assert "bad.png" not in seen
    table, _ = load_labels(small)
    assert table.counts == {"found": 12, "missing": 0, "empty": 0, "corrupt": 1}
    assert any("ignoring" in text and "bad.png" in text for text in log.messages)


def test_a_data_set_that_is_out_of_reach_for_a_while_keeps_its_label_cache(small):
    loader, dataset = loader_of(small)
    hidden = small.rename(small.with_name("hidden"))
    assert not list(loader)
    hidden.rename(small)
    assert len(load_labels(small)[0].images) == len(dataset) == 12


def test_all_bad_is_said(small):
    for image in small.glob("*.jpg"):
        make_bad_png(image)
    with pytest.raises(InputError, match=r"none of the images of .* can be read; .* cannot be decoded"):
        LoadImagesAndLabels(str(small), 48, cache_images="ram")


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_what_ails_all_files_is_no_fault_of_one(small, monkeypatch, cache):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    loader = loader_of(small, augment=True)[0]
    monkeypatch.setattr("utils.dataset.images.np.fromfile", refuse)
    with pytest.raises(InputError, match=r"^.*\.jpg cannot be read: Too many open files$"):
        list(loader) if cache == "none" else loader_of(small, cache=cache)


def test_a_cut_disk_cache_is_left_for_the_images(small, log):
    expected = LoadImagesAndLabels(str(small), 48)
    dataset = LoadImagesAndLabels(str(small), 48, cache_images="disk")
    (place,) = small.parent.glob("*.images")
    os.truncate(place, 5000)
    for index in range(12):
        assert torch.equal(dataset[index][0], expected[index][0])
    assert [text for text in log.messages if "from now on the images are read" in text] == [
        f"WARNING: {place} was cut off by another program: from now on the images are read from their files"
    ]


def test_the_record_is_shared_and_gives_the_next(log):
    record = LeftOut(5)
    assert record.first_kept(4) == 4
    for number in (4, 0, 4):
        record.add(number, f"{number}.jpg is gone")
    assert [record.first_kept(number) for number in range(5)] == [1, 1, 2, 3, 1]
    assert record.fresh() == [0, 4] and record.fresh() == []
    assert len(log.messages) == 2
    for number in range(5):
        record.add(number, "")
    assert record.first_kept(2) is None
    assert pickle.loads(pickle.dumps(UnreadableError({3: "x.jpg"}))).reasons == {3: "x.jpg"}


# -- processes -----------------------------------------------------------------------------------------------------


KILL_WORKERS = """
import os, signal, sys
import utils.dataloaders
from utils.commands.cli import run_command

def main():
    utils.dataloaders.usable_cores = lambda: 4
    loader, _ = utils.dataloaders.create_dataloader(sys.argv[1], 64, 4, 32, hyp={}, augment=True, workers=2)
    for _ in range(1000):
        for _ in loader:
            for worker in loader._iterator._workers:
                os.kill(worker.pid, signal.SIGKILL)

run_command(main)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_killed_loader_process_is_one_line(small):
    command = [sys.executable, "-c", KILL_WORKERS, str(small)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "a process that loads images has ended" in line and "--workers" in line


def test_other_errors_are_no_failures_of_loaders():
    assert loader_failure(RuntimeError("DataLoader worker (pid 5) is killed by signal: Bus error. It is possible"))
    assert not loader_failure(RuntimeError("another one")) and not loader_failure(ValueError("DataLoader worker (pid"))


def test_classes_out_of_range_are_found_by_all_loaders(small):
    label = next(small.parent.glob("labels/*.txt"))
    label.write_text("0 .5 .5 .2 .2\n7 .5 .5 .3 .3\n")
    for names in (["one"], ["one", "two"], {0: "one", 1: "two"}):
        with pytest.raises(InputError, match=rf"{label.name}, line 2: class 7, expected 0 to {len(names) - 1}"):
            loader_of(small, names=names)
    loader_of(small, names=["item"], single_cls=True)


# -- the label cache -----------------------------------------------------------------------------------------------


def test_label_caches_that_promise_too_much_are_not_read(small, log):
    table, cache = load_labels(small)
    with np.load(cache) as archive:
        arrays = dict(archive)

    def store(save=np.savez, **changes) -> None:
        with open(cache, "wb") as stream:
            save(stream, **{**arrays, **changes})

    def bomb(count: int) -> None:
        store()
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (count, 5)})
        import zipfile

        with zipfile.ZipFile(cache, "w") as archive:
            for name, array in arrays.items():
                whole = io.BytesIO()
                np.save(whole, array)
                archive.writestr(f"{name}.npy", stream.getvalue() if name == "labels" else whole.getvalue())

    damages = [
        lambda: store(np.savez_compressed),
        lambda: bomb(10**12),
        lambda: bomb(10**30),
        lambda: store(sizes=-arrays["sizes"]),
        lambda: store(labels=np.full_like(arrays["labels"], np.nan)),
        lambda: store(rows=arrays["rows"][::-1] * np.array([-1, 3] * 6, np.int32)),
        lambda: store(header=np.frombuffer(b"[" * 100_000, np.uint8)),
        lambda: os.truncate(cache, 700),
    ]
    for damage in damages:
        damage()
        log.clear()
        again, _ = load_labels(small)
        assert list(again.images) == list(table.images)
        assert any("is damaged: scanning again" in text for text in log.messages), damage


def test_a_label_cache_cannot_bring_other_images(small, tmp_path):
    table, cache = load_labels(small)
    with np.load(cache) as archive:
        arrays = dict(archive)
    header = arrays["header"].tobytes().replace(b"00.jpg", b"zz.jpg")
    with open(cache, "wb") as stream:
        np.savez(stream, **{**arrays, "header": np.frombuffer(header, np.uint8)})
    assert list(load_labels(small)[0].images) == list(table.images)
