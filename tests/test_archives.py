"""Unpacking: all of an archive or nothing, inside the folder or not at all."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.storage import archives
from utils.storage.archives import is_archive, unpack

FILES = {"set/images/a.jpg": b"picture", "set/labels/a.txt": b"0 .5 .5 1 1\n"}


def make_zip(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("set") if hasattr(archive, "mkdir") else None
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return path


def make_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None, kind=tarfile.SYMTYPE) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


MAKERS = pytest.mark.parametrize(("make", "suffix"), [(make_zip, ".zip"), (make_tar, ".tar"), (make_tar, ".tar.gz")])


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@MAKERS
def test_files_join_what_is_there(tmp_path: Path, make, suffix: str):
    archive = make(tmp_path / f"a{suffix}", FILES)
    target = tmp_path / "target"
    (target / "set/images").mkdir(parents=True)
    (target / "set/images/b.jpg").write_bytes(b"kept")
    (target / "set/images/a.jpg").write_bytes(b"replaced")
    assert unpack(archive, target) == target
    assert content_of(target) == FILES | {"set/images/b.jpg": b"kept"}
    assert archive.exists()


@MAKERS
@pytest.mark.parametrize("name", ["../evil", "/evil", "set/../../evil", "C:\\evil", "..\\evil"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, make, suffix: str, name: str):
    archive = make(tmp_path / f"a{suffix}", FILES | {name: b"x"})
    with pytest.raises(InputError, match="leads out"):
        unpack(archive, tmp_path / "deep" / "target")
    assert content_of(tmp_path).keys() == {archive.name}


@MAKERS
@pytest.mark.parametrize("link", ["../../../outside", "/etc/hostname"])
def test_links_that_lead_out_are_refused(tmp_path: Path, make, suffix: str, link: str):
    archive = make(tmp_path / f"a{suffix}", FILES, {"set/link": link})
    with pytest.raises(InputError, match="leads out"):
        unpack(archive, tmp_path / "target")
    assert content_of(tmp_path / "target") == {}


@MAKERS
def test_links_inside_become_copies(tmp_path: Path, make, suffix: str):
    links = {"set/first": "second", "set/second": "../set/images/a.jpg"}
    target = unpack(make(tmp_path / f"a{suffix}", FILES, links), tmp_path / "target")
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert (target / "set/first").read_bytes() == (target / "set/second").read_bytes() == b"picture"


@MAKERS
@pytest.mark.parametrize("links", [{"set/link": "nothing"}, {"set/a": "b", "set/b": "a"}, {"set/link": "images"}])
def test_links_to_no_file_are_refused(tmp_path: Path, make, suffix: str, links: dict[str, str]):
    with pytest.raises(InputError, match="points to no file"):
        unpack(make(tmp_path / f"a{suffix}", FILES, links), tmp_path / "target")
    assert content_of(tmp_path / "target") == {}


def test_hard_links_and_devices_in_tar_files(tmp_path: Path):
    linked = make_tar(tmp_path / "hard.tar", FILES, {"set/link": "set/images/a.jpg"}, tarfile.LNKTYPE)
    assert (unpack(linked, tmp_path / "target") / "set/link").read_bytes() == b"picture"
    for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            unpack(make_tar(tmp_path / "device.tar", FILES, {"set/device": ""}, kind), tmp_path / "other")
    assert content_of(tmp_path / "other") == {}


def test_a_file_behind_a_link_to_a_folder_goes_nowhere_else(tmp_path: Path):
    archive = make_tar(tmp_path / "a.tar", {}, {"set/door": ".."})
    with tarfile.open(archive, "a") as more:
        more.addfile(tarfile.TarInfo("set/door/evil"), io.BytesIO(b""))
    with pytest.raises(InputError, match="points to no file"):
        unpack(archive, tmp_path / "target")
    assert content_of(tmp_path).keys() == {"a.tar"}


def test_damaged_and_other_files(tmp_path: Path):
    whole = make_zip(tmp_path / "a.zip", {"a": bytes(range(256)) * 99}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:2000] + b"\0\0\0\0" + whole[2004:])
    with pytest.raises(InputError, match=r"a\.zip is damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "target")
    whole = make_tar(tmp_path / "b.tar.gz", {"a": bytes(range(256)) * 99}).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        unpack(tmp_path / "b.tar.gz", tmp_path / "target")
    (tmp_path / "c.zip").write_text("<html>")
    with pytest.raises(InputError, match="not an archive"):
        unpack(tmp_path / "c.zip", tmp_path / "target")
    assert content_of(tmp_path / "target") == {}


def test_a_full_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 3}))
    with pytest.raises(InputError, match="free some space"):
        unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "target")


def test_names_of_archives():
    assert is_archive("A.ZIP") and is_archive("b.tar.gz") and is_archive(Path("c.tgz"))
    assert not is_archive("d.gz") and not is_archive("zip")
