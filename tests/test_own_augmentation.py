"""--augment: the user's own function on training images and their labels."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from models.loading import load_checkpoint
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.train_sparity import SparseOptions
from utils.callbacks import Callbacks
from utils.commands.next_steps import following, handed_on
from utils.commands.options import build
from utils.dataloaders import create_dataloader
from utils.dataset.own_augmentation import OwnAugmentation, clipped_labels, load_function
from utils.errors import InputError, MissingFileError
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.options import TrainOptions
from utils.training.resume import resume_options
from utils.validation.options import ValOptions

HYP = {"mosaic": 0.5, "mixup": 0.3, "hsv_s": 0.7, "translate": 0.1, "scale": 0.5, "fliplr": 0.5, "flipud": 0.3}
HELPER = "SHIFT = 3\n"
FUNCTIONS = """
import random
import numpy as np
import torch
from shift_helper import SHIFT

def same(image, labels):
    return image, labels

def noisy(image, labels, rng):
    chosen = rng.integers(0, 9, image.shape) + random.randrange(9) + np.random.randint(9)
    return (image // 2 + chosen + torch.randint(9, image.shape).numpy()).astype(np.uint8), labels

def inverted(image, labels):
    image[:] = 255 - image
    labels[:, 0] = 1 - labels[:, 0]
    return image, labels

def moved(image, labels):
    labels[:, 1] += 0.5
    return image, labels

def empty(image, labels):
    return image, []

def failing(image, labels):
    return image, labels["classes"]

def nothing(image, labels):
    image[:] = 0

def small(image, labels):
    return image[::2, ::2], labels

def floats(image, labels):
    return image / 255, labels

def columns(image, labels):
    return image, labels[:, :4]

def ragged(image, labels):
    return image, [[1, 2], [3]]

def pixels(image, labels):
    labels[:, 1:] *= image.shape[0]
    return image, labels

def negative(image, labels):
    labels[:, 3] = -0.1
    return image, labels

def unknown(image, labels):
    labels[:, 0] = 2
    return image, labels

def broken(image, labels):
    labels[:, 2] = np.nan
    return image, labels
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own augmentations")
    (folder / "shift_helper.py").write_text(HELPER)
    (folder / "my_functions.py").write_text(FUNCTIONS)
    return folder / "my_functions.py"


def epoch(
    data: Path, name: str = "", workers: int = 0, context: str | None = None, **changes: Any
) -> list[tuple[Any, ...]]:  # fmt: skip
    """The batches of an epoch of training images."""
    loader, dataset = create_dataloader(
        str(data.parent / "images/train"), 64, 4, 32, hyp=HYP, augment=True, cache="none", workers=workers,
        shuffle=not changes.get("rect"), seed=3, **changes,
    )  # fmt: skip
    if name:
        dataset.own_augmentation = OwnAugmentation(name, 2)
    if context:
        loader.multiprocessing_context = context
    return list(loader)


def equal(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(one, other, strict=True)
    )


# -- what is made of images and labels -----------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"quad": True}, {"rect": True}, {"image_weights": True}, {"single_cls": True}])
def test_a_function_that_changes_nothing_changes_nothing(file, tiny_dataset, changes):
    own = epoch(tiny_dataset, f"{file}:same", **changes)
    plain = epoch(tiny_dataset, **changes)
    assert len(own) == len(plain) > 0
    for (images, labels, *_), (plain_images, plain_labels, *_) in zip(own, plain, strict=True):
        assert torch.equal(images, plain_images) and len(labels)
        torch.testing.assert_close(labels, plain_labels, rtol=0, atol=1e-5)


def test_it_sees_the_frame_that_is_trained_on(file, tiny_dataset, monkeypatch):
    monkeypatch.setitem(HYP, "hsv_s", 0.0)
    plain = epoch(tiny_dataset)
    own = epoch(tiny_dataset, f"{file}:inverted")
    for (images, labels, *_), (plain_images, plain_labels, *_) in zip(own, plain, strict=True):
        assert torch.equal(images, 255 - plain_images)
        assert torch.equal(labels[:, 1], 1 - plain_labels[:, 1])
        torch.testing.assert_close(labels[:, 2:], plain_labels[:, 2:], rtol=0, atol=1e-5)


def test_moved_boxes_are_clipped_and_those_that_left_are_dropped():
    labels = np.array(
        [
            [0, 0.5, 0.5, 0.2, 0.2],  # inside
            [1, 1.0, 0.5, 0.2, 0.2],  # half of it
            [1, 1.09, 0.5, 0.2, 0.2],  # a twentieth
            [0, 1.5, 0.5, 0.2, 0.2],  # outside
            [0, 0.5, 0.5, 0.01, 0.2],  # a pixel wide
            [0, 0.5, 0.5, 0.0, 0.0],
        ],
        np.float32,
    )
    inside, half = clipped_labels(labels.copy(), 100, 50)
    np.testing.assert_array_equal(inside, labels[0])
    np.testing.assert_allclose(half, [1, 0.95, 0.5, 0.1, 0.2], atol=1e-4)


def test_labels_may_become_fewer(file, tiny_dataset):
    assert sum(len(batch[1]) for batch in epoch(tiny_dataset, f"{file}:empty")) == 0
    kept = sum(len(batch[1]) for batch in epoch(tiny_dataset, f"{file}:moved"))
    assert 0 < kept < sum(len(batch[1]) for batch in epoch(tiny_dataset))


def test_an_image_with_four_channels_and_a_cached_one_are_given_as_copies_of_three(file):
    augmentation = OwnAugmentation(f"{file}:inverted", 2)
    for channels in (3, 4):
        image, labels = np.full((8, 10, channels), 7, np.uint8), np.array([[0, 0.5, 0.5, 0.5, 0.5]], np.float32)
        new, new_labels = augmentation(image, labels, "a.jpg")
        assert image.min() == 7 and labels[0, 0] == 0
        assert new.shape == (8, 10, 3) and new.min() == 248 and new_labels[0, 0] == 1


# -- random numbers ------------------------------------------------------------------------------------------------


def test_runs_repeat_whatever_the_number_of_processes(file, tiny_dataset):
    name = f"{file}:noisy"
    first = epoch(tiny_dataset, name)
    torch.manual_seed(7)  # of the training: neither read nor changed
    before = torch.get_rng_state()
    assert equal(first, epoch(tiny_dataset, name))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(first, epoch(tiny_dataset, name, workers=2))
    assert not equal(first, epoch(tiny_dataset, f"{file}:same"))


def test_started_processes_find_the_function_again(file, tiny_dataset):
    name = f"{file}:noisy"
    assert equal(epoch(tiny_dataset, name), epoch(tiny_dataset, name, workers=1, context="spawn"))
    copied = pickle.loads(pickle.dumps(OwnAugmentation(name, 2)))
    image, labels = np.zeros((4, 4, 3), np.uint8), np.zeros((0, 5), np.float32)
    random.seed(1)
    np.random.seed(1)
    first = copied(image, labels, "a.jpg")[0]
    random.seed(1)
    np.random.seed(1)
    np.testing.assert_array_equal(first, OwnAugmentation(name, 2)(image, labels, "a.jpg")[0])


def test_a_run_uses_it_in_training_only_records_it_and_repeats(file, tiny_dataset, tiny_cfg, tmp_path):
    def weights(name: str, augment: str) -> dict[str, torch.Tensor]:
        train.run(
            data=str(tiny_dataset), cfg=str(tiny_cfg), weights="", imgsz=64, batch_size=4, epochs=1, workers=0,
            device="cpu", project=str(tmp_path), name=name, noplots=True, augment=augment,
        )  # fmt: skip
        return load_checkpoint(tmp_path / name / "weights/last.pt")["model"].state_dict()

    noisy = f"{file}:noisy"
    plain, first, second = weights("plain", ""), weights("first", noisy), weights("second", noisy)
    assert read_yaml(tmp_path / "first/opt.yaml")["augment"] == noisy
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], plain[key]) for key in first)


# -- what the function must return ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("failing", r"the function fails in line \d+ of .*my_functions.py with IndexError: only integers"),
        ("nothing", r"expected \(image, labels\) to be returned, got None"),
        ("small", r"expected an image of shape \(64, 64, 3\) and type uint8 .*, got an array of shape \(32, 32, 3\)"),
        ("floats", r"expected an image .* got an array of shape \(64, 64, 3\) and type float64"),
        ("columns", r"expected labels of shape \(N, 5\), got shape \(\d+, 4\)"),
        ("ragged", r"expected labels of shape \(N, 5\), got \[\[1, 2\], \[3\]\]"),
        ("pixels", r"expected centre x, .* as fractions of the image, from 0 to 1, got [01] \d"),
        ("negative", r"as fractions of the image, from 0 to 1, got [01] [\d.]+ [\d.]+ -0.1"),
        ("broken", r"as fractions of the image, from 0 to 1, got [01] [\d.]+ nan"),
        ("unknown", r"expected a class from 0 to 1 first in each label, got 2 "),
    ],
)
def test_nonsense_is_one_line_with_function_and_image(file, tiny_dataset, function, message):
    before = set(multiprocessing.active_children())
    for workers in (0, 1) if function in ("failing", "small") else (0,):
        with pytest.raises(InputError, match=message) as caught:
            epoch(tiny_dataset, f"{file}:{function}", workers)
        text = str(caught.value)
        assert text.startswith(f"--augment {file}:{function}, on a training image made of ") and "\n" not in text
        assert not set(multiprocessing.active_children()) - before  # which would be waited for
        assert "images/train" in text.replace("\\", "/")


# -- finding the function ------------------------------------------------------------------------------------------


def test_modules_come_from_the_working_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    assert load_function("my_functions:same").__name__ == "same"
    assert load_function("my_functions.py:same")(1, 2) == (1, 2)
    assert OwnAugmentation("my_functions.py:same", 1)._source == f"{file}:same"


def test_an_edited_file_is_read_again(tmp_path):
    edited = tmp_path / "edited.py"
    for number in (1, 22):
        edited.write_text(f"def chosen(image, labels):\n    return {number}\n")
        assert load_function(f"{edited}:chosen")(0, 0) == number


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no_function", InputError, "takes module:function or path/file.py:function, got 'no_function'"),
        (":", InputError, "takes module:function or path/file.py:function, got ':'"),
        ("a:b-c", InputError, "takes module:function or path/file.py:function, got 'a:b-c'"),
        ("absent/file.py:f", MissingFileError, "there is no file absent/file.py"),
        ("absent_module:f", InputError, "importing absent_module fails with ModuleNotFoundError"),
        ("{file}:sume", InputError, "my_functions.py has no function sume; its functions are same, noisy"),
        ("{file}:SHIFT", InputError, "has no function SHIFT"),
        ("{folder}/text.txt:f", InputError, "its name must end in .py"),
        ("{folder}/wrong.py:f", InputError, r"importing .*wrong.py fails with ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_is_not_there_is_one_line_before_anything_is_written(
    file, tiny_dataset, tiny_cfg, tmp_path, name, error, message
):
    (tmp_path / "text.txt").write_text("f = 1")
    (tmp_path / "wrong.py").write_text("1 / 0")
    with pytest.raises(error, match=message):
        train.run(
            data=str(tiny_dataset), cfg=str(tiny_cfg), weights="", imgsz=64, epochs=1, workers=0, device="cpu",
            project=str(tmp_path / "runs"), augment=name.format(file=file, folder=tmp_path),
        )  # fmt: skip
    assert not (tmp_path / "runs/exp").exists()


# -- other commands ------------------------------------------------------------------------------------------------


def test_the_next_training_is_proposed_with_it_and_validation_is_not(file):
    options = build(TrainOptions, augment="my.py:f")
    assert "--augment my.py:f" in following("train_sparity.py", SparseOptions, options)
    assert "--augment" not in following("val.py", ValOptions, options)
    assert handed_on(build(PipelineOptions, augment="my.py:f"), SparseOptions)["augment"] == "my.py:f"


def test_a_resumed_run_needs_it_named_again_and_continues_exactly(file, tiny_dataset, tiny_cfg, tmp_path, caplog):
    name = f"{file}:noisy"
    common: dict[str, Any] = {"project": str(tmp_path), "device": "cpu", "noplots": True, "workers": 0}
    start: dict[str, Any] = {
        "data": str(tiny_dataset),
        "cfg": str(tiny_cfg),
        "weights": "",
        "imgsz": 64,
        "batch_size": 4,
        "epochs": 2,
    }

    def stop(_: Any, saved: int, *__: Any) -> None:
        if saved == 0:
            raise KeyboardInterrupt

    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        train.main(build(TrainOptions, **common, **start, name="broken", augment=name), callbacks)
    last = tmp_path / "broken/weights/last.pt"
    assert f"--resume '{last}' --augment '{name}'".replace("'", "") in str(vars(caught.value)["advice"]).replace(
        "'", ""
    )
    with pytest.raises(InputError, match=r"names a function for --augment, which runs if this command names it: add"):
        train.run(resume=str(last))
    with caplog.at_level(logging.INFO):
        moved = resume_options(build(TrainOptions, resume=str(last), augment="elsewhere.py:noisy"))
    assert any("Resuming with --augment elsewhere.py:noisy instead of" in note for note in moved.notes)
    train.run(resume=str(last), augment=name)
    train.run(**common, **start, name="whole", augment=name)
    resumed, whole = (
        load_checkpoint(tmp_path / run / "weights/last.pt")["model"].state_dict() for run in ("broken", "whole")
    )
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_a_record_alone_runs_no_code(file, tiny_dataset, tiny_cfg, tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(image, labels):\n    return image, labels\n")
    (tmp_path / "run/weights").mkdir(parents=True)
    (tmp_path / "run/weights/last.pt").write_bytes(b"")
    write_yaml(tmp_path / "run/opt.yaml", {"augment": f"{trap}:f", "data": str(tiny_dataset)})
    with pytest.raises(InputError, match="names a function for --augment"):
        train.run(resume=str(tmp_path / "run/weights/last.pt"))
    assert not (tmp_path / "ran").exists()


# -- the examples --------------------------------------------------------------------------------------------------


def test_the_opencv_example_changes_pixels_and_repeats(tiny_dataset):
    name = f"{ROOT / 'examples/augment_opencv.py'}:augment"
    first, plain = epoch(tiny_dataset, name), epoch(tiny_dataset)
    assert equal(first, epoch(tiny_dataset, name)) and not equal(first, plain)
    torch.testing.assert_close(torch.cat([batch[1] for batch in first]), torch.cat([batch[1] for batch in plain]))


def test_the_streak_of_the_opencv_example_keeps_the_brightness():
    streak = load_function(f"{ROOT / 'examples/augment_opencv.py'}:streak")
    for length, degrees in ((3, 0), (4, 45), (9, 90), (9, 170)):
        kernel = streak(length, degrees)
        assert kernel.shape == (length, length) and abs(kernel.sum() - 1) < 1e-5
    np.testing.assert_allclose(streak(5, 0)[2], 0.2)


def test_the_albumentations_example_moves_boxes_with_pixels_and_repeats(tiny_dataset):
    albumentations = pytest.importorskip("albumentations")
    name = f"{ROOT / 'examples/augment_albumentations.py'}:augment"
    first = epoch(tiny_dataset, name)
    assert equal(first, epoch(tiny_dataset, name)) and not equal(first, epoch(tiny_dataset))
    assert equal(first, epoch(tiny_dataset, name, workers=1))
    transform = load_function(name).__globals__["TRANSFORM"]
    affine = [step for step in transform.transforms if isinstance(step, albumentations.Affine)]
    affine[0].p = 1.0
    image, labels = np.zeros((80, 80, 3), np.uint8), np.array([[1, 0.5, 0.5, 0.25, 0.25]], np.float32)
    image[30:50, 30:50] = 255
    for seed in range(9):
        changed, (row,) = load_function(name)(image, labels, np.random.default_rng(seed))
        ys, xs = np.nonzero(changed[..., 0] > 127)
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 80
        np.testing.assert_allclose(np.r_[row[1:3] - row[3:] / 2, row[1:3] + row[3:] / 2], box, atol=0.03)
        assert row[0] == 1
