#!/usr/bin/env python3
"""Makes every write of a command fail in turn, and looks at what is left: the first one, the second, to the last.

    python benchmarks/failing_writes.py --commands train prune finetune export val detect
    python benchmarks/failing_writes.py --commands train --every 7 --once

A write is each call that creates, opens for writing, writes to, synchronises, shortens or renames something in the
folder of the benchmark, or makes a folder there. It fails with 'no space left', 'quota exceeded', 'read-only' or
'input/output error' in turn, and so do all after it, or with --once it alone. The command must then end with one line,
or go on where nothing depends on the file; no file that was there before may be damaged or missing, no half file be
left; and when writes succeed again, a training must go on to the weights and results of one that was never disturbed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.write_faults import FailingWrites
from utils.commands.cli import describe, run_command
from utils.commands.options import option, parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT, atomic_path, make_folder

COMMANDS = ("train", "sparse", "prune", "finetune", "export", "val", "detect")


@dataclass
class FailingOptions:
    """Options of the benchmark."""

    data: str = option(str(ROOT / "data/mask_demo.yaml"), "data set YAML")
    cfg: str = option(str(ROOT / "models/yolov5n_mask.yaml"), "model YAML, trained from scratch")
    commands: list[str] = option(list(COMMANDS), "commands: " + " ".join(COMMANDS), nargs="+")
    imgsz: int = option(64, "image size in pixels")
    every: int = option(1, "let only every so many-th write fail")
    first: int = option(1, "the first write that fails")
    once: bool = option(False, "only one write fails, those after it succeed")
    folder: str = option(str(ROOT / "runs/benchmark_failing_writes"), "folder for everything, which must not exist")


class Commands:
    """The commands on the smallest inputs; each writes into ``folder / project`` and returns its run folder."""

    def __init__(self, options: FailingOptions, folder: Path) -> None:
        """``folder`` is that of all files."""
        self.options, self.folder = options, folder
        self.base, self.pruned = folder / "base/exp/weights/best.pt", folder / "pruned/exp/pruned_model.pt"

    def prepare(self) -> None:
        """Make the checkpoints that the commands start from."""
        self.train("base")
        self.prune("pruned")

    def _common(self, project: str, **more: Any) -> dict[str, Any]:
        return {"data": self.options.data, "imgsz": self.options.imgsz, "device": "cpu", "workers": 0,
                "project": str(self.folder / project), "name": "exp", **more}  # fmt: skip

    def _training(self, command: Any, kind: type, project: str, **more: Any) -> Path:
        from utils.commands.options import build

        run = self.folder / project / "exp"
        last = run / "weights/last.pt"
        if last.is_file():
            from prune_tools.pipeline import resumable

            if resumable(last):
                command(build(kind, resume=str(last)))
            return run
        common = self._common(project, epochs=2, batch_size=4, noplots=True, exist_ok=True)
        command(build(kind, **common, **more))
        return run

    def train(self, project: str) -> Path:
        """Train two epochs from scratch."""
        import train
        from utils.training.options import TrainOptions

        return self._training(train.main, TrainOptions, project, cfg=self.options.cfg, weights="")

    def sparse(self, project: str) -> Path:
        """Train sparsely."""
        from prune_tools import train_sparity

        more = {"weights": str(self.base), "sr": 0.01}
        return self._training(train_sparity.main, train_sparity.SparseOptions, project, **more)

    def prune(self, project: str) -> Path:
        """Prune."""
        from prune_tools import prune
        from utils.commands.options import build

        more = {"weights": [str(self.base)], "percent": 0.6, "noval": True, "exist_ok": True, "batch_size": 4}
        return Path(prune.main(build(prune.PruneOptions, **self._common(project, **more))))

    def finetune(self, project: str) -> Path:
        """Fine-tune with a teacher."""
        from prune_tools import finetune

        more = {"weights": str(self.pruned), "teacher": str(self.base)}
        return self._training(finetune.main, finetune.FinetuneOptions, project, **more)

    def export(self, project: str) -> Path:
        """Export to TorchScript."""
        import export

        run = make_folder(self.folder / project / "exp")
        with atomic_path(run / "model.pt") as draft:
            draft.write_bytes(self.base.read_bytes())
        export.run(weights=str(run / "model.pt"), imgsz=self.options.imgsz, include=["torchscript"],
                   data=self.options.data)  # fmt: skip
        return run

    def val(self, project: str) -> Path:
        """Validate, with labels and JSON."""
        import val

        more = {"batch_size": 4, "save_txt": True, "save_json": True, "exist_ok": True, "conf_thres": 0.05}
        keywords = self._common(project, **more)
        val.run(keywords.pop("data"), str(self.base), plots=False, **keywords)
        return self.folder / project / "exp"

    def detect(self, project: str) -> Path:
        """Detect, with labels and crops."""
        import detect
        from utils.checks import check_dataset

        source = check_dataset(self.options.data, splits=("val",))["val"]
        more = {"source": str(source), "weights": str(self.base), "conf_thres": 0.01, "max_det": 3, "exist_ok": True}
        keywords = self._common(project, save_txt=True, save_crop=True, **more)
        del keywords["data"], keywords["workers"]
        return Path(detect.run(**keywords))


def attempt(command: Callable[[str], Path], project: str, writes: FailingWrites) -> str:
    """Run the command while its writes fail; the line that it ends with, '' when it goes on."""
    try:
        with writes:
            command(project)
    except Exception as error:
        line = describe(error)
        if not line or "\n" in line:
            raise
        return line
    return ""


def faults(folder: Path, before: dict[Path, int]) -> list[str]:
    """Half and damaged files in ``folder``, and those of ``before`` (with their sizes) that are lost."""
    from models.loading import load_checkpoint

    found = [f"{path} is a draft" for path in folder.rglob(".draft-*")]
    found += [f"{path} is lost" for path, size in before.items() if _is_lost(path, size)]
    for path in folder.rglob("*.*"):
        try:
            if path.suffix == ".pt":
                load_checkpoint(path)
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001 - each is a fault that is reported
            found.append(f"{path} is damaged: {error}")
    return found


def _is_lost(path: Path, size: int) -> bool:
    return not path.exists() or (size > 0 and path.stat().st_size == 0)


def differences(first: Path, second: Path) -> list[str]:
    """Names of the tensors and files that differ between two finished trainings."""
    from benchmarks.resume import differences as differences_of_runs

    return differences_of_runs(first, second) if (first / "results.csv").exists() else []


def campaign(options: FailingOptions, commands: Commands, name: str) -> int:
    """Let each write of one command fail; returns how many did. Raises InputError at the first fault."""
    command: Callable[[str], Path] = getattr(commands, name)
    whole = command(f"{name}-whole")
    failing, tried = options.first, 0
    while True:
        project = f"{name}-{failing}"
        before = {path: path.stat().st_size for path in commands.folder.rglob("*") if path.is_file()}
        writes = FailingWrites(commands.folder, failing, stays=not options.once)
        line = attempt(command, project, writes)
        wrong = faults(commands.folder, before)
        if not wrong:
            wrong = differences(whole, command(project))
        if wrong:
            raise InputError(f"write {failing} of {name} failed ({line or 'it went on'}): {'; '.join(wrong[:3])}")
        if not writes.happened:
            return tried
        LOGGER.warning(f"{name}: write {failing}: {line or 'went on'}")
        tried, failing = tried + 1, failing + options.every


def main(options: FailingOptions) -> dict[str, int]:
    """Try all commands; returns how many writes of each have failed."""
    import logging

    unknown = set(options.commands) - set(COMMANDS)
    if unknown:
        raise InputError(f"--commands {' '.join(sorted(unknown))}: expected some of {' '.join(COMMANDS)}")
    folder = Path(options.folder)
    if folder.exists():
        raise InputError(f"{folder} exists: remove it, or choose another --folder")
    LOGGER.setLevel(logging.WARNING)
    commands = Commands(options, make_folder(folder).resolve())
    commands.prepare()
    counts = {name: campaign(options, commands, name) for name in options.commands}
    for name, count in counts.items():
        LOGGER.warning(f"{name}: {count} writes failed, one run for each: one line or none, nothing lost, same results")
    return counts


if __name__ == "__main__":
    run_command(lambda: main(parse(FailingOptions, "Let every write of the commands fail in turn.")))
