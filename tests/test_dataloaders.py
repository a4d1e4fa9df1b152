"""The data set's items, rectangular batches, collation, caching, and what seeds decide in loaders."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from utils.dataloaders import (
    LoadImagesAndLabels,
    SeededSampler,
    collate_fn,
    collate_fn4,
    count_workers,
    create_dataloader,
    seed_worker,
)
from utils.dataset.images import ORIENTATION_TAG, read_image
from utils.dataset.items import rectangle_shapes, resized_shape
from utils.distributed import World
from utils.errors import InputError, MissingFileError
from utils.geometry.boxes import scale_coords, xywhn2xyxy

HYP = {
    "mosaic": 1.0,
    "mixup": 0.3,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "translate": 0.1,
    "scale": 0.5,
    "fliplr": 0.5,
}
SIZES = {
    "a": (640, 480),
    "b": (480, 640),
    "c": (500, 500),
    "d": (1280, 720),
    "e": (600, 400),
    "f": (333, 500),
    "g": (101, 640),
}


def write_split(
    root: Path, sizes: dict[str, tuple[int, int]], text: str = "0 .5 .5 .25 .5\n", suffix: str = "jpg"
) -> Path:
    """Smooth random images of (width, height) in root/images, all with the same label text (none if empty)."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(exist_ok=True)
    for number, (name, (width, height)) in enumerate(sizes.items()):
        coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "images" / f"{name}.{suffix}"), image)
        if text:
            (root / "labels" / f"{name}.txt").write_text(text)
    return root / "images"


@pytest.fixture
def split(tmp_path):
    return write_split(tmp_path, SIZES)


@pytest.fixture
def small(tmp_path):
    """Twelve images of 48 x 36 or 36 x 48."""
    return write_split(
        tmp_path, {f"{n:02}": (48, 36) if n % 2 else (36, 48) for n in range(12)}, "1 .5 .5 .4 .4\n0 .3 .3 .2 .2\n"
    )


# -- rectangles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pad", "stride", "expected"),
    [
        (0.5, 32, [[448, 672], [672, 672], [672, 512], [672, 128]]),
        (0.0, 32, [[448, 640], [640, 640], [640, 480], [640, 128]]),
        (0.5, 64, [[512, 704], [704, 704], [704, 512], [704, 192]]),
    ],
)
def test_rectangular_batches(split, pad, stride, expected):
    dataset = LoadImagesAndLabels(str(split), 640, 2, rect=True, pad=pad, stride=stride)
    assert "".join(Path(file).stem for file in dataset.im_files) == "deacbfg"
    assert [Path(file).stem for file in dataset.label_files] == [Path(file).stem for file in dataset.im_files]
    np.testing.assert_array_equal(dataset.batch_shapes, expected)
    for index in (1, 6):
        assert list(dataset[index][0].shape[1:]) == expected[index // 2]


@pytest.mark.parametrize(
    ("aspects", "expected"),
    [
        ([0.5625], [[384, 672], [384, 640], [448, 704]]),
        ([0.5, 0.75], [[512, 672], [480, 640], [512, 704]]),
        ([0.75, 1.0], [[672, 672], [640, 640], [704, 704]]),
        ([1.5], [[672, 448], [640, 448], [704, 512]]),
        ([1.2, 1.8], [[672, 576], [640, 544], [704, 576]]),
    ],
)
def test_rectangle_of_aspects(aspects, expected):
    shapes = np.array([[400, round(400 * aspect)] for aspect in aspects])
    batch = np.zeros(len(aspects), int)
    for (pad, stride), shape in zip([(0.5, 32), (0.0, 32), (0.5, 64)], expected, strict=True):
        np.testing.assert_array_equal(rectangle_shapes(shapes, batch, 640, stride, pad), [shape])


def test_rectangular_item(split):
    dataset = LoadImagesAndLabels(str(split), 640, 2, rect=True, pad=0.5)
    image, labels, path, shapes = dataset[1]
    assert Path(path).stem == "e" and image.shape == (3, 448, 672) and image.dtype == torch.uint8
    assert shapes[0] == (400, 600) and shapes[1][1] == (16.0, 11.0)
    np.testing.assert_allclose(shapes[1][0], (1.065, 1.0667), rtol=1e-4)
    np.testing.assert_allclose(labels, [[0, 0, 0.5, 0.5, 0.2381, 0.47545]], atol=1e-4)


def test_labels_map_back_to_the_file(split):
    """The item's shapes undo resizing and padding: the boxes return to where the label file has them."""
    for rect in (True, False):
        dataset = LoadImagesAndLabels(str(split), 320, 3, rect=rect, pad=0.5)
        for image, labels, _, shapes in (dataset[index] for index in range(len(dataset))):
            boxes = xywhn2xyxy(labels[:, 2:], image.shape[2], image.shape[1])
            height, width = shapes[0]
            scale_coords(image.shape[1:], boxes, shapes[0], shapes[1])
            expected = xywhn2xyxy(torch.tensor([[0.5, 0.5, 0.25, 0.5]]), width, height)
            np.testing.assert_allclose(boxes, expected, atol=0.006 * max(width, height))


@pytest.mark.parametrize(
    ("size", "expected"), [((600, 400), (640, 426)), ((333, 500), (426, 640)), ((500, 500), (640, 640))]
)
def test_resized_shape_cuts_decimals_off(size, expected):
    assert resized_shape(*size, 640) == expected


# -- items ---------------------------------------------------------------------------------------------------------


def test_channels_are_rgb(tmp_path):
    images = write_split(tmp_path, {"a": (32, 32)}, suffix="png")
    cv2.imwrite(str(images / "a.png"), np.full((32, 32, 3), (10, 20, 30), np.uint8))
    image = LoadImagesAndLabels(images, 32)[0][0]
    assert image[:, 5, 5].tolist() == [30, 20, 10] and image.is_contiguous()


def test_boxes_end_before_the_edge(tmp_path):
    images = write_split(tmp_path, {"a": (64, 64)}, "0 1 1 1 1")
    labels = LoadImagesAndLabels(images, 64)[0][1]
    right = labels[0, 2] + labels[0, 4] / 2
    assert 0.99 < right < 1


def test_flips_move_boxes_with_pixels(tmp_path):
    images = write_split(tmp_path, {"a": (64, 64)}, "0 .25 .125 .25 .125", suffix="png")
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[4:12, 8:24] = 255
    cv2.imwrite(str(images / "a.png"), picture)
    dataset = LoadImagesAndLabels(images, 64, augment=True, hyp={"flipud": 1.0, "fliplr": 1.0})
    image, labels, _, shapes = dataset[0]
    np.testing.assert_allclose(labels, [[0, 0, 0.75, 0.875, 0.25, 0.125]], atol=1e-4)
    assert (image[:, 52:60, 40:56] == 255).all() and int((image == 255).sum()) == 3 * 8 * 16
    assert shapes is not None  # no mosaic


def test_mosaic_items(small):
    dataset = LoadImagesAndLabels(small, 64, augment=True, hyp=HYP)
    random.seed(0)
    for index in range(12):
        image, labels, path, shapes = dataset[index]
        assert image.shape == (3, 64, 64) and shapes is None and path == dataset.im_files[index]
        assert labels.shape[1] == 6 and ((labels[:, 2:] >= 0) & (labels[:, 2:] <= 1)).all()


def test_odd_size_gives_even_mosaics(small):
    assert LoadImagesAndLabels(small, 65, augment=True, hyp={"mosaic": 1.0})[0][0].shape == (3, 64, 64)


def test_single_class_with_polygons(tmp_path):
    images = write_split(tmp_path, {"a": (40, 40), "b": (40, 40)}, "3 .1 .1 .5 .1 .5 .5\n2 .5 .5 .2 .2")
    dataset = LoadImagesAndLabels(images, 64, augment=True, hyp=HYP | {"copy_paste": 1.0}, single_cls=True)
    assert all((rows[:, 0] == 0).all() for rows in dataset.labels)
    assert all((dataset[index][1][:, 1] == 0).all() for index in (0, 1))


def test_images_without_labels(tmp_path):
    images = write_split(tmp_path, {"a": (40, 30), "b": (40, 30)}, text="")
    image, labels, _, _ = LoadImagesAndLabels(images, 64)[0]
    assert labels.shape == (0, 6) and image.shape == (3, 64, 64)
    with pytest.raises(InputError, match=r"no labels to train with: .*labels.a\.txt"):
        LoadImagesAndLabels(images, 64, augment=True)
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .2 .2")
    dataset = LoadImagesAndLabels(images, 64, augment=True, hyp=HYP)
    random.seed(1)
    assert all(torch.isfinite(dataset[index % 2][1]).all() for index in range(10))


def test_rotated_photograph_keeps_its_shape_when_decoded_smaller(tmp_path):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    Image.new("RGB", (400, 200), (200, 30, 60)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .5 .5")
    for augment in (True, False):
        dataset = LoadImagesAndLabels(tmp_path / "images", 64, augment=augment)
        image, full, shown = dataset.load_image(0)
        assert (full, shown, image.shape) == ((400, 200), (64, 32), (64, 32, 3))
    assert read_image(tmp_path / "images" / "a.jpg", 4).shape == (100, 50, 3)


def test_smaller_decoding_looks_the_same(tmp_path):
    images = write_split(tmp_path, {"a": (520, 400)})
    training, validation = (
        LoadImagesAndLabels(images, 64, augment=augment).load_image(0)[0] for augment in (True, False)
    )
    assert np.abs(training.astype(int) - validation).mean() < 2


def test_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(MissingFileError):
        LoadImagesAndLabels(tmp_path / "absent")
    images = write_split(tmp_path, {"a": (40, 30)})
    with pytest.raises(InputError, match="'tape'"):
        LoadImagesAndLabels(images, cache_images="tape")
    with pytest.raises(InputError, match="batch size 0"):
        create_dataloader(images, 64, 0, 32)


# -- loaders -------------------------------------------------------------------------------------------------------


def test_collate_numbers_the_images():
    items = [
        (torch.full((3, 4, 4), n, dtype=torch.uint8), torch.ones(count, 6), f"{n}", None)
        for n, count in enumerate((2, 0, 1))
    ]
    images, labels, paths, shapes = collate_fn(items)
    assert images.shape == (3, 3, 4, 4) and labels[:, 0].tolist() == [0, 0, 2] and labels[:, 1:].all()
    assert paths == ("0", "1", "2") and shapes == (None, None, None)


def test_every_image_once_and_last_batch_partial(small):
    loader, dataset = create_dataloader(small, 64, 5, 32, workers=0, rect=True, pad=0.5)
    paths = [path for batch in loader for path in batch[2]]
    assert paths == list(dataset.im_files) and len(loader) == 3
    loader, _ = create_dataloader(small, 64, 50, 32, workers=0)
    assert loader.batch_size == 12


def test_rectangles_are_not_shuffled(small):
    loader, dataset = create_dataloader(small, 64, 4, 32, workers=0, rect=True, shuffle=True)
    assert [path for batch in loader for path in batch[2]] == list(dataset.im_files)


def epochs(small, seed: int, workers: int, count: int = 2, state=None) -> tuple[list, torch.Tensor]:
    """Paths and pixel sums of some epochs, and the sampler's state after the first."""
    random.seed(7)
    np.random.seed(7)
    loader, _ = create_dataloader(small, 64, 4, 32, hyp=HYP, augment=True, shuffle=True, workers=workers, seed=seed)
    if state is not None:
        loader.sampler.generator.set_state(state)
    result, after_first = [], None
    for _ in range(count):
        result.append([(batch[2], int(batch[0].sum()), batch[1].sum().item()) for batch in loader])
        after_first = loader.sampler.generator.get_state() if after_first is None else after_first
    return result, after_first


@pytest.fixture
def two_processors(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_seed_decides_order(small, two_processors, workers):
    first, second, other = (epochs(small, seed, workers, 1)[0] for seed in (0, 0, 1))
    assert first == second
    assert [batch[0] for batch in first[0]] != [batch[0] for batch in other[0]]


@pytest.mark.slow
def test_workers_change_nothing_and_epochs_differ(small, two_processors):
    none, _ = epochs(small, 3, 0)
    one, state = epochs(small, 3, 1)
    two, _ = epochs(small, 3, 2)
    assert none == one == two and one[0] != one[1]
    continued, _ = epochs(small, 3, 2, 1, state)
    assert continued[0] == one[1]  # exactly the second epoch, after a restart


def test_seed_decides_augmentation(small, two_processors):
    sums = set()
    for seed in (0, 1):
        loader, _ = create_dataloader(small, 64, 12, 32, hyp=HYP, augment=True, workers=1, seed=seed)
        sums.add(int(next(iter(loader))[0].sum()))
    assert len(sums) == 2


@pytest.mark.parametrize("count", [12, 11])
def test_ranks_share_every_batch_of_one_process(count):
    def drawn(rank: int, ranks: int) -> list[tuple[int, int]]:
        return list(SeededSampler(count, torch.Generator().manual_seed(3), True, rank, ranks))

    whole, parts = drawn(0, 1), [drawn(rank, 3) for rank in range(3)]
    assert sorted(index for index, _ in whole) == list(range(count))
    together = [pair for pairs in zip(*parts, strict=True) for pair in pairs]  # position by position
    assert together[:count] == whole and set(together[count:]) <= {whole[-1]}
    assert len({seed for _, seed in whole}) == count  # every image has its own augmentation


def test_rectangles_of_all_ranks_have_one_shape(split, monkeypatch):
    shapes = []
    for rank in (0, 1):
        monkeypatch.setattr("utils.dataloaders.ranks", lambda rank=rank: (rank, 2))
        loader, _ = create_dataloader(split, 640, 1, 32, hyp={}, augment=True, rect=True, rank=rank, workers=0)
        shapes.append([tuple(batch[0].shape[2:]) for batch in loader])
    assert shapes[0] == shapes[1] and len(set(shapes[0])) > 1 and len(shapes[0]) == 4


# -- four images in one --------------------------------------------------------------------------------------------


def quad_items(count: int) -> list:
    box = torch.tensor([[0, 1, 0.5, 0.5, 0.2, 0.4]])
    return [(torch.full((3, 4, 4), 10 * n, dtype=torch.uint8), box.clone(), f"{n}", None) for n in range(count)]


def test_four_images_side_by_side(monkeypatch):
    monkeypatch.setattr("utils.dataloaders.random.random", lambda: 0.9)
    images, labels, paths, _ = collate_fn4(quad_items(4))
    assert images.shape == (1, 3, 8, 8) and paths == ("0",)
    assert images[0, 0, ::4, ::4].tolist() == [[0, 20], [10, 30]]  # 1 below 0, 2 right of 0
    expected = [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]
    np.testing.assert_allclose(labels[:, 2:], [[*centre, 0.1, 0.2] for centre in expected], atol=1e-6)


def test_one_image_enlarged(monkeypatch):
    monkeypatch.setattr("utils.dataloaders.random.random", lambda: 0.1)
    images, labels, paths, _ = collate_fn4(quad_items(8))
    assert images.shape == (2, 3, 8, 8) and paths == ("0", "4")
    assert images[:, 0, 5, 5].tolist() == [0, 40] and labels[:, 0].tolist() == [0, 1]
    np.testing.assert_allclose(labels[:, 2:], [[0.5, 0.5, 0.2, 0.4]] * 2, atol=1e-6)


def test_a_rest_of_four_loses_no_image(monkeypatch):
    monkeypatch.setattr("utils.dataloaders.random.random", lambda: 0.9)
    images, labels, _, _ = collate_fn4(quad_items(6))
    assert images.shape == (2, 3, 8, 8)
    assert images[1, 0, ::4, ::4].tolist() == [[40, 0], [50, 10]] and len(labels) == 8


def test_new_indices_reach_the_workers(small, two_processors):
    loader, dataset = create_dataloader(small, 64, 6, 32, workers=1, image_weights=True)
    for chosen in ([0] * 12, [5] * 12):
        dataset.indices = chosen
        assert {path for batch in loader for path in batch[2]} == {dataset.im_files[chosen[0]]}


class FrozenObjects(torch.utils.data.Dataset):
    """Says how many objects the garbage collector of this process leaves alone."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> int:
        return gc.get_freeze_count()


def test_workers_begin_when_an_epoch_is_asked_for_and_end_with_the_loader(small, two_processors):
    loader, _ = create_dataloader(small, 64, 4, 32, workers=2)
    epoch = iter(loader)  # as EpochLoader.begin_next does while the run validates
    workers = loader._iterator._workers
    assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
    first = [paths for _, _, paths, _ in epoch]
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert [worker.exitcode for worker in workers] == [0, 0]  # by themselves: torch kills those that nobody has ended
    assert [paths for _, _, paths, _ in loader] == first
    loader.close()
    loader.close()


def test_workers_do_not_touch_what_they_inherited():
    loader, before = (
        torch.utils.data.DataLoader(FrozenObjects(), 1, num_workers=1, worker_init_fn=seed_worker),
        gc.get_freeze_count(),
    )
    assert int(next(iter(loader))) > before + 10_000 and gc.get_freeze_count() == before


@pytest.mark.slow
def test_spawned_workers_read_the_images_of_their_parent(small):
    dataset = LoadImagesAndLabels(small, 48, cache_images="ram")
    expected = [item[0] for item in dataset]
    for file in small.iterdir():
        file.write_bytes(b"")  # whoever reads it fails
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=12, num_workers=1, collate_fn=collate_fn, multiprocessing_context="spawn"
    )
    assert torch.equal(next(iter(loader))[0], torch.stack(expected))


def test_worker_count(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)  # of which this process uses one
    assert [count_workers(16, 16), count_workers(4, 16), count_workers(8, 1), count_workers(8, 3)] == [12, 4, 0, 3]
    monkeypatch.setattr("utils.dataloaders.current_world", lambda: World(0, 0, 2, 2))
    assert count_workers(8, 16) == 6


@pytest.mark.parametrize(("device", "pinned"), [(None, False), ("cpu", False), ("cuda", True)])
def test_memory_is_pinned_for_runs_on_a_gpu_only(tmp_path, monkeypatch, device, pinned):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    images = write_split(tmp_path, {"a": (32, 32)})
    loader, _ = create_dataloader(images, 32, 1, 32, device=device and torch.device(device))
    assert loader.pin_memory is pinned


@pytest.mark.slow
def test_shipped_data_set(shared_folder, tmp_path):
    """Golden values of v6.2 for the validation split of the mask data set."""
    import json
    import shutil

    source = shared_folder / "data" / "mask_yolo"
    for folder in ("images", "labels"):
        shutil.copytree(source / folder / "val", tmp_path / folder / "val", copy_function=shutil.copyfile)
    reference = json.loads((shared_folder / "conformance" / "v6.2" / "dataset_mask_val.json").read_text())
    dataset = LoadImagesAndLabels(tmp_path / "images" / "val", 320, 16, rect=True, pad=0.5)
    np.testing.assert_array_equal(dataset.batch_shapes, reference["batch_shapes"])
    for row, (image, labels, path, _) in zip(reference["rect"], (dataset[i] for i in range(len(dataset))), strict=True):
        assert Path(path).name == row["file"] and list(image.shape) == row["tensor"]
        assert abs(float(image.float().mean()) - row["mean"]) < 0.5
        np.testing.assert_allclose(labels[:, 1:], np.reshape(row["labels"], (-1, 5)), atol=1e-4)
