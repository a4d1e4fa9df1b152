"""The drawn data set: the same for the same seed, resumable, with labels that lie on faces."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.scripts import draw_mask_demo
from data.scripts.draw_mask_demo import Settings, draw, label_line, split_of
from data.scripts.mask_demo.canvas import Canvas, arc, put_over, smooth
from data.scripts.mask_demo.look import MASKS, PROPS, Head, random_look
from data.scripts.mask_demo.person_painter import LEFT, TOP, paint_lookalike, paint_person
from data.scripts.mask_demo.scene import FACE_MASK, draw_scene
from utils.dataset.description import check_dataset
from utils.errors import InputError
from utils.storage.files import ROOT, read_yaml

SMALL = Settings(images=6, size=160, seed=3)


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("drawn") / "demo", SMALL)


@pytest.mark.slow
def test_same_seed_same_bytes_other_seed_other_pictures(drawn, tmp_path):
    assert contents(draw(tmp_path / "again", SMALL)) == contents(drawn)
    other = contents(draw(tmp_path / "other", Settings(images=6, size=160, seed=4)))
    pictures = {name for name in other if name.endswith(".jpg")}
    assert len(pictures) == 6
    assert all(other[name] != contents(drawn)[name] for name in pictures)


def test_the_command_proposes_the_training_that_the_yaml_file_describes(tmp_path, monkeypatch, heard):
    words = ["--images", "2", "--size", "96", "--output"]
    monkeypatch.setattr(draw_mask_demo, "DEFAULT_OUTPUT", tmp_path / "usual")
    draw_mask_demo.main([*words, str(tmp_path / "usual")])
    assert f"2 images with labels are in {tmp_path / 'usual'}" in heard.text
    assert "Next: python train.py --weights data/weights/drawn_faces.pt --data data/mask_demo.yaml" in heard.text
    heard.clear()
    draw_mask_demo.main([*words, str(tmp_path / "other")])
    assert "Next:" not in heard.text and f"path: {tmp_path / 'other'}" in heard.text


@pytest.mark.slow
def test_an_interrupted_set_is_completed_and_a_complete_one_left_alone(drawn, tmp_path, monkeypatch):
    whole, draw_picture = contents(drawn), draw_mask_demo.draw_picture

    def fail_at_four(folder, index, settings):
        if index == 4:
            raise KeyboardInterrupt
        draw_picture(folder, index, settings)

    monkeypatch.setattr(draw_mask_demo, "draw_picture", fail_at_four)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "demo", SMALL)
    monkeypatch.undo()
    first = tmp_path / "demo/images/train/demo_00000.jpg"
    written = first.stat().st_mtime_ns
    assert contents(draw(tmp_path / "demo", SMALL)) == whole
    assert first.stat().st_mtime_ns == written, "a finished picture was drawn again"
    monkeypatch.setattr(draw_mask_demo, "draw_picture", fail_at_four)
    draw(tmp_path / "demo", SMALL)


@pytest.mark.slow
def test_other_settings_replace_a_set_and_other_files_are_safe(tmp_path):
    draw(tmp_path / "demo", Settings(images=6, size=96))
    draw(tmp_path / "demo", Settings(images=2, size=96, seed=1))
    assert sorted(path.name for path in (tmp_path / "demo").rglob("*.jpg")) == ["demo_00000.jpg", "demo_00001.jpg"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files of something else"):
        draw(tmp_path / "mine", SMALL)


@pytest.mark.slow
def test_labels_are_valid_and_the_yaml_finds_the_set(drawn):
    assert {path.parent.name for path in drawn.glob("images/*/*.jpg")} == {"train", "val"}
    faces = 0
    for image_file in drawn.glob("images/*/*.jpg"):
        picture = cv2.imread(str(image_file))
        assert picture is not None and picture.shape == (160, 160, 3)
        label_file = drawn / "labels" / image_file.parent.name / f"{image_file.stem}.txt"
        for line in label_file.read_text().splitlines():
            kind, x, y, w, h = (float(field) for field in line.split())
            assert kind in (0, 1) and w > 0 and h > 0
            assert min(x - w / 2, y - h / 2) >= -1e-6
            assert max(x + w / 2, y + h / 2) <= 1 + 1e-6
            faces += 1
    assert faces > 6
    description = read_yaml(ROOT / "data/mask_demo.yaml")
    assert ROOT / description["path"] == draw_mask_demo.DEFAULT_OUTPUT
    found = check_dataset({**description, "path": str(drawn)})
    assert found["names"] == {0: "face", 1: "face_mask"}


@pytest.mark.slow
def test_the_set_has_small_and_large_faces_of_both_classes():
    labels = [label for index in range(40) for label in draw_scene(np.random.default_rng([0, index]), 320)[1]]
    sizes = [np.ptp(box, axis=0).max() for _, box in labels]
    assert min(sizes) >= 10 and max(sizes) <= 220
    assert np.percentile(sizes, 10) < 28
    assert np.percentile(sizes, 90) > 60
    assert 0.35 < np.mean([class_index for class_index, _ in labels]) < 0.65
    assert len(labels) > 40 * 5, "the scenes are crowded"
    assert sum(split_of(index) == "val" for index in range(400)) == 80


def test_label_line():
    label = (FACE_MASK, np.array([[10.0, 20.0], [30.0, 60.0]]))
    assert label_line(label, 100) == "1 0.200000 0.400000 0.200000 0.400000\n"


@pytest.mark.parametrize(
    ("wrong", "message"), [({"images": 1}, "--images 1"), ({"size": 20}, "--size 20"), ({"seed": -1}, "--seed -1")]
)
def test_bad_settings(wrong, message):
    with pytest.raises(InputError, match=message):
        Settings(**wrong)


@pytest.mark.slow
def test_every_kind_of_mask_and_prop_can_be_drawn():
    looks = [random_look(np.random.default_rng(seed), seed % 2 == 0, (-100.0, 0.2)) for seed in range(160)]
    assert {look.mask for look in looks} == {"none", *MASKS}
    assert {look.prop for look in looks} == set(PROPS)
    for look in looks:
        person = paint_person(look, 8.0, 60.0, np.random.default_rng(0))
        assert (person.box >= 0).all() and (person.box <= person.picture.shape[1::-1]).all()
        assert (person.box[0] < person.box[1]).all()
        x, y = person.face.mean(axis=0).astype(int)
        assert person.picture[y, x, 3] == 255, "the face is solid"
        assert (person.picture[..., :3] <= person.picture[..., 3:]).all(), "alpha is premultiplied"
        if look.mask != "none":
            x, y = ((look.head.project([(0.0, 0.6)])[0] - (LEFT, TOP)) * 8).astype(int)
            bare = paint_person(replace(look, mask="none"), 8.0, 60.0, np.random.default_rng(0))
            mouth = np.s_[y - 2 : y + 3, x - 2 : x + 3]
            assert (person.picture[mouth] != bare.picture[mouth]).any(), "the mask hides the mouth"


def test_lookalikes_differ():
    look = random_look(np.random.default_rng(0), True, (-100.0, 0.2))
    outlines = {paint_lookalike(look, 8.0, 60.0, np.random.default_rng(i))[..., 3].tobytes() for i in range(12)}
    assert len(outlines) >= 4, "a ball, a bear, somebody from behind, a mask"


def test_turning_a_head_moves_its_nose():
    nose = [(0.0, 0.25)]
    straight, right, down = (head.project(nose)[0] for head in (Head(), Head(yaw=30), Head(pitch=20)))
    assert straight[0] == pytest.approx(0)
    assert right[0] > 0.4
    assert down[1] > straight[1] + 0.2
    assert np.abs(Head(yaw=80).project([(-0.9, 0.0)])).max() <= 1.0, "far points stay on the edge of the head"
    (left, top), (right_edge, bottom) = Head().box()
    assert (left, right_edge) == pytest.approx((-1, 1), abs=0.02)
    assert -1.3 < top < -0.9
    assert bottom == pytest.approx(1.3, abs=0.02)


def test_canvas_composites_exactly():
    canvas = Canvas(-1, -1, 1, 1, 40)
    canvas.fill(arc((0, 0), (0.5, 0.5)), np.array([10.0, 100.0, 200.0]))
    scene = np.full((80, 80, 3), 50, np.uint8)
    put_over(scene, canvas.finish(), 0, 0)
    assert scene[40, 40].tolist() == [10, 100, 200]
    assert scene[2, 2].tolist() == [50, 50, 50]
    put_over(scene, canvas.finish(), 100, 100)
    assert scene.max() == 200
    canvas.tint(arc((0, 0), (5, 5)), np.full(3, 255.0), 1.0)
    assert canvas.pixels[0, 0].tolist() == [0, 0, 0, 0], "what is transparent stays transparent"
    assert canvas.pixels[40, 40].tolist() == [255, 255, 255, 255]


def test_smooth_keeps_the_ends_of_a_line():
    line = smooth([(0, 0), (1, 1), (2, 0)], closed=False)
    assert line[0].tolist() == [0, 0]
    assert line[-1].tolist() == [2, 0]
    assert line[:, 1].max() < 1
