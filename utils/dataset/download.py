"""Downloading a data set according to the ``download`` entry of its YAML file.

The file ``.download-steps`` in the data set's folder lists the finished steps, so that an interrupted download
continues with the next one; ``.download-incomplete`` exists until all is done, so that a partial data set is never
mistaken for a complete one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from utils.commands.interrupts import run_child
from utils.downloads import download, is_url, only_one_process, url_name
from utils.errors import InputError
from utils.installation import IMPORT_FOLDER, ROOT, WORK, words_to_start
from utils.log import LOGGER
from utils.storage.archives import is_archive, unpack
from utils.storage.files import make_folder

MARKER, STEPS, ARCHIVES = ".download-incomplete", ".download-steps", ".download-archives"
CONVERTERS = ROOT / "data" / "scripts" / "converters"
RECIPES = "docs/DATA.md"  # start of a 'download' entry that refers to instructions for people
CONVERTER_COMMAND = "data/scripts/get_dataset.py"
# Runs a user's Python text as YOLOv5 does: with the data set's description as the global 'yaml'
RUN_PYTHON = "import json, runpy, sys; runpy.run_path(sys.argv[1], init_globals={'yaml': json.loads(sys.argv[2])})"


class DatasetFolder:
    """A data set's folder while it is being filled; use it as a context.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: str | Path, again: bool = False) -> None:
        """Touches nothing until the context is entered; ``again`` repeats the steps of a finished download."""
        self.root, self._again = Path(root), again
        self._marker, self._steps = self.root / MARKER, self.root / STEPS
        self._done: set[str] = set()

    def __enter__(self) -> DatasetFolder:
        """Mark the folder as incomplete and read the finished steps."""
        self._existed = self.root.exists()
        make_folder(self.root)
        if self._again and not self._marker.exists():
            self._steps.unlink(missing_ok=True)
        self._marker.touch()
        if self._steps.exists():
            self._done = set(self._steps.read_text(encoding="utf-8").splitlines())
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the mark after success, or if nothing arrived: then data may still be put there by hand."""
        if error_type is None:
            shutil.rmtree(self.root / ARCHIVES, ignore_errors=True)
        if error_type is None or {path.name for path in self.root.iterdir()} <= {MARKER, ARCHIVES}:
            self._marker.unlink()
        for folder in (self.root / ARCHIVES, *([] if self._existed else [self.root])):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def require_space(self, gigabytes: float) -> None:
        """Log how much is going to be fetched. Raises InputError if the disk has less space."""
        free = shutil.disk_usage(self.root).free / 1e9
        if not self._done and free < gigabytes:
            raise InputError(f"{self.root} needs {gigabytes:g} GB for this data set, {free:.1f} GB are free: make room")
        LOGGER.info(
            f"Fetching up to {gigabytes:g} GB into {self.root}; an interrupted download continues where it stopped"
        )

    def step(self, name: str, work: Callable[[], object]) -> None:
        """Do ``work`` unless the step ``name`` is finished."""
        if name in self._done:
            return
        work()
        with self._steps.open("a", encoding="utf-8") as stream:
            stream.write(name + "\n")
        self._done.add(name)

    def archive(self, url: str, into: str = ".", checksum: str = "") -> None:
        """Fetch an archive and unpack it below ``into`` (relative to the root), once; the archive is then deleted."""
        file = self.root / ARCHIVES / url_name(url)

        def work() -> None:
            download(url, file, checksum=checksum)
            try:
                unpack(file, self.root / into)
            finally:
                file.unlink()  # even if damaged: the next attempt fetches it again

        self.step(url, work)


def is_incomplete(root: str | Path) -> bool:
    """Tell whether a download into ``root`` was interrupted."""
    return os.path.exists(Path(root) / MARKER)


def provide(
    title: str,
    content: Mapping[str, Any],
    root: Path,
    splits: Sequence[str],
    is_missing: Callable[[], bool],
    allow_scripts: bool = False,
) -> None:
    """Fetch a data set into ``root`` by its ``download`` entry.

    The entry is the address of an archive (unpacked beside ``root``, whose name its top folder has), the name of a
    converter in data/scripts/converters/, a section of docs/DATA.md with a recipe for people, or a script. As a script
    can do anything, it needs ``allow_scripts``.

    Args:
        title: the data set's name in messages.
        content: its description; a script finds it, with an absolute ``path``, in its global ``yaml``.
        root: its folder, absolute.
        splits: those of train, val and test to fetch, for a converter that can fetch them one by one.
        is_missing: tells whether there is still something to do; called when no other process is doing it.
        allow_scripts: run the entry if it is a script.

    Raises:
        InputError: the download fails, there is only a recipe, or it is a script and not allowed.
    """
    source = str(content["download"]).strip()
    with only_one_process(root), _hint_if_unfinished(root):
        if not is_missing():  # another process fetched it meanwhile
            return
        if len(source.split()) == 1 and is_url(source):
            _fetch_archive(title, source, root)
        elif re.fullmatch(r"[a-z0-9_]+", source) and (CONVERTERS / f"{source}.py").is_file():
            command = [sys.executable, *words_to_start(CONVERTER_COMMAND), source, "--again", "--output", str(root)]
            _run(title, [*command, "--splits", *splits])
        elif source.partition("#")[0] == RECIPES:
            raise InputError(
                f"the data of {title} are missing in {root}, and no command can fetch them: "
                f"{ROOT / RECIPES}, section Recipes, says where they are and how to convert their labels"
            )
        elif not allow_scripts:
            raise InputError(
                f"the data of {title} are missing, and its 'download' entry would run {_describe(source)}: "
                "read it, and if you trust it, allow it with --allow-download-scripts (train.py, val.py), "
                "or get the data by hand"
            )
        else:
            LOGGER.info(f"{title}: running {_describe(source)}, as allowed")
            _run_script(title, source, {**content, "path": str(root)})


@contextmanager
def _hint_if_unfinished(root: Path) -> Iterator[None]:
    """Add to an error, if an earlier download is unfinished, what to do if the data were completed by hand."""
    unfinished = is_incomplete(root)
    try:
        yield
    except InputError as error:
        if not unfinished:
            raise
        raise InputError(f"{error} (if the data are nevertheless complete, delete {root / MARKER})") from error


def _fetch_archive(title: str, url: str, root: Path) -> None:
    if not is_archive(url_name(url)):
        raise InputError(f"{title}: 'download' is {url}, which is not an archive: expected .zip, .tar or .tar.gz")
    LOGGER.info(f"{title}: fetching {url}")
    with DatasetFolder(root, again=True) as folder:
        folder.archive(url, into="..")


def _is_shell(source: str) -> bool:
    return source.startswith(("bash ", "sh ")) or (len(source.split()) == 1 and source.endswith(".sh"))


def _describe(source: str) -> str:
    """Describe a script: a shell command by its text, Python by its length and first line."""
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    first = lines[0] if lines else ""
    if _is_shell(source):
        return f"the command '{first}'" + (f" and {len(lines) - 1} more" if len(lines) > 1 else "")
    return f"a Python script of {len(lines)} line(s) that begins with '{first[:60]}'"


def _run_script(title: str, source: str, description: Mapping[str, Any]) -> None:
    """Run a user's script in a separate process, in the repository root as YOLOv5 does."""
    if _is_shell(source):
        _run(title, ["bash", "-c", source if " " in source else f"bash {source}"])
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "download.py"
        file.write_text(source, encoding="utf-8")
        bootstrap = f"import sys; sys.path[:0] = {[str(ROOT), str(IMPORT_FOLDER)]!r}; " + RUN_PYTHON
        _run(title, [sys.executable, "-c", bootstrap, str(file), json.dumps(description, default=str)])


def _run(title: str, command: list[str]) -> None:
    if run_child(command, cwd=WORK):
        raise InputError(f"{title}: its download failed, see above")


def fetch_all(
    url: str | Path | list[str | Path],
    dir: str | Path = ".",
    unzip: bool = True,
    delete: bool = True,
    curl: bool = False,
    threads: int = 1,
    retry: int = 3,
) -> None:
    """YOLOv5's ``utils.general.download``, for scripts in data set files: fetch one address or several into ``dir``.

    Args:
        url: addresses; a local file is used where it is.
        dir: folder for the files and what they contain.
        unzip: unpack archives.
        delete: delete fetched archives once they are unpacked.
        curl: has no effect: every download is resumed where it stopped.
        threads: number of downloads at a time.
        retry: number of further attempts if the network fails.

    Raises:
        InputError: a download or an archive fails.
    """
    folder = make_folder(dir)

    def fetch(source: str | Path) -> None:
        local = Path(source)
        file = local if local.is_file() else download(str(source), folder / url_name(str(source)), attempts=retry + 1)
        if unzip and is_archive(file):
            unpack(file, folder)
            if delete and file != local:
                file.unlink()

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        list(pool.map(fetch, url if isinstance(url, list) else [url]))
