"""Downloads over a server on this machine: resumed, checked, whole or not there. Released weights."""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path

import pytest

from tests.loopback import Site, site
from utils import downloads
from utils.checks import check_file
from utils.downloads import NotOnServerError, download, fetch_weights, is_url, url_name
from utils.errors import InputError, MissingFileError

__all__ = ["site"]

CONTENT = bytes(range(256)) * 400


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_whole_and_alone(site: Site, tmp_path: Path):
    address = site.offer("/a%20b.bin", CONTENT)
    file = download(address, tmp_path / "new" / "c.bin")
    assert file == tmp_path / "new" / "c.bin"
    assert file.read_bytes() == CONTENT
    assert left_in(file.parent) == {"c.bin"}
    assert download(address + "?size=large", tmp_path).name == "a b.bin"  # a folder takes the address's name


def test_what_is_there_is_not_fetched_again(site: Site, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"mine")
    assert download(site.url + "/a", tmp_path / "a").read_bytes() == b"mine"
    assert site.requests == []


def test_a_broken_transfer_goes_on_in_the_same_call(site: Site, tmp_path: Path):
    site.break_after = [1000, 2000]
    file = download(site.offer("/a", CONTENT), tmp_path / "a")
    assert file.read_bytes() == CONTENT
    assert [wanted for _, wanted in site.requests] == ["", "bytes=1000-", "bytes=3000-"]
    assert left_in(tmp_path) == {"a"}


def test_a_later_call_resumes(site: Site, tmp_path: Path):
    site.break_after = [5000]
    address = site.offer("/a", CONTENT)
    with pytest.raises(InputError, match="first 5000 bytes are kept"):
        download(address, tmp_path / "a", attempts=1)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:5000]
    assert download(address, tmp_path / "a").read_bytes() == CONTENT
    assert site.requests[-1] == ("/a", "bytes=5000-")


@pytest.mark.parametrize("version", ['"2"', ""])
def test_halves_of_two_versions_are_never_joined(site: Site, tmp_path: Path, version: str):
    site.break_after = [5000]
    address = site.offer("/a", CONTENT)
    with pytest.raises(InputError):
        download(address, tmp_path / "a", attempts=1)
    site.offer("/a", CONTENT[::-1])
    site.versions["/a"] = version
    assert download(address, tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_without_a_version_nothing_is_resumed(site: Site, tmp_path: Path):
    site.break_after, site.versions["/a"] = [5000], ""
    assert download(site.offer("/a", CONTENT), tmp_path / "a").read_bytes() == CONTENT
    assert [wanted for _, wanted in site.requests] == ["", ""]


def test_a_part_that_is_already_complete(site: Site, tmp_path: Path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    (tmp_path / "a.part.version").write_text('"1"')
    assert download(site.offer("/a", CONTENT), tmp_path / "a").read_bytes() == CONTENT
    assert len(site.requests) == 1
    assert left_in(tmp_path) == {"a"}


def test_a_part_that_is_longer_than_the_file(site: Site, tmp_path: Path):
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    (tmp_path / "a.part.version").write_text('"1"')
    assert download(site.offer("/a", CONTENT), tmp_path / "a").read_bytes() == CONTENT


def test_passing_trouble_is_retried_and_lasting_trouble_told(site: Site, tmp_path: Path):
    address = site.offer("/a", CONTENT)
    site.failures = [503, 429]
    assert download(address, tmp_path / "a").read_bytes() == CONTENT
    site.failures = [503] * 9
    with pytest.raises(InputError, match="503"):
        download(address, tmp_path / "b", attempts=2)
    assert len(site.failures) == 7
    site.failures = [403, 403]
    with pytest.raises(InputError, match="answers 403"):
        download(address, tmp_path / "b")
    assert len(site.failures) == 1  # a refusal is final
    site.failures = []
    with pytest.raises(NotOnServerError, match="answers 404"):
        download(site.url + "/nowhere", tmp_path / "b")
    assert left_in(tmp_path) == {"a"}


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_checksums(site: Site, tmp_path: Path, algorithm: str):
    address = site.offer("/a", CONTENT)
    right = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
    wrong = f"{algorithm}:{hashlib.new(algorithm, b'other').hexdigest()}"
    with pytest.raises(InputError, match=f"not what it should be.*{algorithm}"):
        download(address, tmp_path / "a", checksum=wrong)
    assert left_in(tmp_path) == set()
    (tmp_path / "a").write_bytes(b"stale")
    assert download(address, tmp_path / "a", checksum=right).read_bytes() == CONTENT
    before = len(site.requests)
    download(address, tmp_path / "a", checksum=right)
    assert len(site.requests) == before


def test_a_full_disk_is_noticed_before_the_transfer(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match="free some space"):
        download(site.offer("/a", CONTENT), tmp_path / "a")
    assert left_in(tmp_path) == set()


def test_two_at_once_fetch_once(site: Site, tmp_path: Path):
    address = site.offer("/a", CONTENT * 20)
    threads = [threading.Thread(target=download, args=(address, tmp_path / "a")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() == CONTENT * 20
    assert len(site.requests) == 1


def test_redirections(site: Site, tmp_path: Path):
    site.offer("/there", CONTENT)
    site.redirects["/here"] = site.url + "/there"
    assert download(site.url + "/here", tmp_path / "a").read_bytes() == CONTENT
    handler = downloads._SafeRedirects()
    secure = type("Request", (), {"full_url": "https://host/a"})
    with pytest.raises(InputError, match="not encrypted"):
        handler.redirect_request(secure, None, 302, "", {}, "http://host/a")


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://host/a", "a.zip"])
def test_other_kinds_of_address(address: str, tmp_path: Path):
    with pytest.raises(InputError, match="expected an address"):
        download(address, tmp_path / "a")


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(downloads.OFFLINE_VARIABLE, "true")
    with pytest.raises(InputError, match=r"forbids downloads.*http://127\.0\.0\.1:9/a by hand"):
        download("http://127.0.0.1:9/a", tmp_path / "a")


def test_names_in_addresses():
    assert url_name("https://host/a/b%20c.JPG?x=/d.png#e") == "b c.JPG"
    assert is_url("https://h/a") and is_url(Path("https://h/a")) and not is_url("data/http.txt")
    for address in ("https://host", "https://host/", "https://host/..", "https://host/%2e%2e", "https://h/a%5cb"):
        with pytest.raises(InputError, match="names no file"):
            url_name(address)
    assert url_name("https://host/a%2Fb.jpg") == "b.jpg"  # an encoded slash leads nowhere else


def test_check_file_fetches_addresses(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    address = site.offer("/data.yaml", b"nc: 1\n")
    assert check_file(address, (".yaml",)) == str(tmp_path / "data.yaml")
    check_file(address, (".yaml",))
    assert len(site.requests) == 1
    with pytest.raises(InputError, match=r"should be a \.yaml"):
        check_file(site.url + "/data.exe", (".yaml",))


# -- released weights --------------------------------------------------------------------------------------------------


def test_released_weights_are_fetched_once_with_their_licence(site: Site, tmp_path: Path, caplog):
    site.offer("/v6.2/yolov5n.pt", bytes(downloads.SMALLEST_BYTES))
    with caplog.at_level(logging.INFO, "yolov5"):
        file = fetch_weights(tmp_path / "models" / "yolov5n.pt", base_url=site.url)
    assert file == tmp_path / "models" / "yolov5n.pt"
    assert file.stat().st_size == downloads.SMALLEST_BYTES
    assert "GPL-3.0" in caplog.text and "Ultralytics" in caplog.text
    fetch_weights(file, base_url=site.url)
    assert site.requests == [("/v6.2/yolov5n.pt", "")]


def test_an_earlier_release_helps_out(site: Site, tmp_path: Path):
    site.offer("/v6.1/yolov5x6.pt", bytes(downloads.SMALLEST_BYTES))
    assert fetch_weights(tmp_path / "yolov5x6.pt", base_url=site.url).exists()
    with pytest.raises(MissingFileError, match=r"no such checkpoint.*answers 404"):
        fetch_weights(tmp_path / "yolov5s.pt", base_url=site.url)


def test_an_error_page_is_no_weights_file(site: Site, tmp_path: Path):
    site.offer("/v6.2/yolov5n.pt", b"<html>busy</html>")
    with pytest.raises(InputError, match="17 bytes"):
        fetch_weights(tmp_path / "yolov5n.pt", base_url=site.url)
    assert left_in(tmp_path) == set()


def test_other_names_are_left_alone(site: Site, tmp_path: Path):
    assert fetch_weights(tmp_path / "best.pt", base_url=site.url) == tmp_path / "best.pt"
    assert fetch_weights("yolov5s-seg.pt", base_url=site.url) == Path("yolov5s-seg.pt")
    assert site.requests == []


def test_shipped_weights_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "ROOT", tmp_path / "package")
    shipped = tmp_path / "package/data/weights/drawn.pt"
    shipped.parent.mkdir(parents=True)
    shipped.write_bytes(CONTENT)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert fetch_weights("data/weights/drawn.pt") == shipped
    own = Path("data/weights/drawn.pt")
    own.parent.mkdir(parents=True)
    own.write_bytes(CONTENT)
    assert fetch_weights("data/weights/drawn.pt") == own


def test_the_default_is_the_public_release():
    assert downloads.RELEASES_URL == "https://github.com/ultralytics/yolov5/releases/download"
    assert downloads.RELEASES[0] == "v6.2"
    assert len(downloads.RELEASED) == 10 and {"yolov5n.pt", "yolov5x6.pt"} < set(downloads.RELEASED)


def test_checkpoints_are_loaded_from_addresses_and_releases(site: Site, tmp_path: Path, monkeypatch):
    from models.loading import attempt_load
    from models.yolo import DetectionModel
    from utils.checkpoint import save_checkpoint

    config = {
        "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]],
        "backbone": [[-1, 1, "Conv", [64, 3, 8]], [-1, 1, "Conv", [128, 3, 1]]],
        "head": [[[1], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    save_checkpoint({"model": DetectionModel(config)}, tmp_path / "made.pt")
    content = (tmp_path / "made.pt").read_bytes()
    site.offer("/v6.2/yolov5n.pt", content)
    site.offer("/own.pt", content)
    monkeypatch.setattr(downloads, "RELEASES_URL", site.url)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    for name in ("yolov5n.pt", site.url + "/own.pt"):
        assert attempt_load(name).model[-1].nc == 2
    assert left_in(tmp_path / "run") == {"yolov5n.pt", "own.pt"}
