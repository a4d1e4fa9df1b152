"""Options written once: a dataclass is the command line (``parse``) and the keywords of ``run(**kwargs)`` (``build``).

Each command has a dataclass whose fields are made by ``option``; the field's name with dashes is the flag, its type
and default are the flag's. A command that adds flags to another's inherits from its class.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import numbers
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from utils.errors import InputError, short_repr
from utils.files import ROOT, read_yaml_mapping

Options = TypeVar("Options")
AUTO_BATCH = -1  # --batch-size that stands for what fits
MOST = 1_000_000  # the largest whole number of an option, where it says no other
LARGEST_IMAGE = 65_536  # pixels of a side
LARGEST_SEED = 2**32 - 1

# What a resumed run does with an option, said at the option itself (``on_resume``)
KEPT = "kept"  # the recorded value counts; another one on the command line is refused
OPEN = "open"  # the recorded value counts unless the command line gives another one
FOLDER = "folder"  # follows from where the checkpoint lies; the record is not read
CALL = "call"  # this command line alone decides; the record is not read

HYPERPARAMETER_RANGES: dict[str, tuple[float, float]] = {
    "lr0": (0, 10),
    "lrf": (0, 10),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "warmup_epochs": (0, 1e6),
    "warmup_momentum": (0, 1),
    "warmup_bias_lr": (0, 10),
    "box": (0, 1e6),
    "cls": (0, 1e6),
    "cls_pw": (0, 1e6),
    "obj": (0, 1e6),
    "obj_pw": (0, 1e6),
    "iou_t": (0, 1),
    "anchor_t": (1, 1e6),
    "fl_gamma": (0, 100),
    "hsv_h": (0, 1),
    "hsv_s": (0, 1),
    "hsv_v": (0, 1),
    "degrees": (0, 180),
    "translate": (0, 1),
    "scale": (0, 1),
    "shear": (0, 90),
    "perspective": (0, 0.1),
    "flipud": (0, 1),
    "fliplr": (0, 1),
    "mosaic": (0, 1),
    "mixup": (0, 1),
    "copy_paste": (0, 1),
}


def option(
    default: Any, text: str, *aliases: str, on_resume: str = KEPT, handed_on: bool = True, path: bool = False,
    at_least: float | None = None, at_most: float = MOST, also: tuple[Any, ...] = (), **argparse_arguments: Any,
) -> Any:  # fmt: skip
    """A dataclass field that is also a flag: ``text`` is its help, ``aliases`` are further spellings.

    A ``bool`` that is false by default becomes a switch; one that is true also gets ``--no-<name>``. A list default
    needs ``nargs``; other keywords go to ``ArgumentParser.add_argument`` as they are.

    Args:
        on_resume: KEPT, OPEN, FOLDER or CALL: whether a resumed run trusts its record of this option.
        handed_on: the command proposed as the next one repeats the value, if it has the option; False for what
            belongs to one run alone, such as its name.
        path: the value names a file or a folder.
        at_least, at_most: the range of a number, or of each in a list; every option that is a number has one.
        also: what is allowed beside these numbers.
    """
    metadata = {
        "help": text, "aliases": aliases, "arguments": argparse_arguments, "on_resume": on_resume,
        "handed_on": handed_on, "path": path, "range": (at_least, at_most), "also": also,
    }  # fmt: skip
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(name: str) -> str:
    """The flag of the option ``name``."""
    return "--" + name.replace("_", "-")


def default_of(field: dataclasses.Field) -> Any:
    """The default of an option."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that stand for "not given": there the help text says what happens."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def as_list(value: str | Path | Sequence[str | Path]) -> list[str]:
    """One file or text or several, as Python's callers give them, as the list of texts that a command line gives."""
    return [str(item) for item in ([value] if isinstance(value, (str, Path)) else value)]


def parser_for(options_class: type, description: str) -> argparse.ArgumentParser:
    """The argparse parser of an options dataclass; prefix abbreviations work as in YOLOv5."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_HelpFormatter)
    for field in dataclasses.fields(options_class):
        flag = flag_of(field.name)
        default = default_of(field)
        arguments = dict(field.metadata["arguments"])
        if isinstance(default, bool) and "nargs" not in arguments:
            arguments["action"] = argparse.BooleanOptionalAction if default else "store_true"
        elif "type" not in arguments:
            sample = default[0] if isinstance(default, list) and default else default
            arguments["type"] = type(sample) if isinstance(sample, (int, float)) else str
        help_text = field.metadata["help"].replace("%", "%%")
        parser.add_argument(
            flag, *field.metadata["aliases"], dest=field.name, default=default, help=help_text, **arguments
        )
    return parser


def parse(options_class: type[Options], description: str, argv: Sequence[str] | None = None) -> Options:
    """Read the command line (or ``argv``) into an options object; argparse exits with 2 on a bad one."""
    namespace = parser_for(options_class, description).parse_args(argv)
    return options_class(**vars(namespace))


def build(options_class: type[Options], **keywords: Any) -> Options:
    """An options object from keywords, as ``run(**kwargs)`` takes them. Unknown names raise InputError."""
    known = [field.name for field in dataclasses.fields(options_class)]  # type: ignore[arg-type]
    for name in keywords:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            raise InputError(f"unknown option {short_repr(name)} for {options_class.__name__}{hint}")
    return options_class(**keywords)


def to_dict(options: Any) -> dict[str, Any]:
    """The options as plain YAML-ready values (paths as text)."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def command_line(script: str, options_class: type, values: Mapping[str, Any]) -> str:
    """The command that gives a script these values of its options; those that are the defaults are left out."""
    words = ["python", script]
    for field in dataclasses.fields(options_class):
        value = values.get(field.name)
        if value is not None and value != default_of(field):
            words += flag_words(field.name, value)
    return quoted(words)


def flag_words(name: str, value: Any) -> list[str]:
    """The words of a command line that give the option ``name`` this value."""
    flag = flag_of(name)
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, (list, tuple)):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"] if str(value).startswith("-") and isinstance(value, (str, Path)) else [flag, str(value)]


def quoted(words: Sequence[str]) -> str:
    """The words as one line to be pasted into a shell, of Windows on Windows."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def check_numbers(options: Any) -> None:
    """Check every option that is a number, or a list of numbers, or a switch; None passes where it is the default.

    Raises:
        InputError: by flag, the first value that is of another kind or out of its range.
    """
    for field in dataclasses.fields(options):
        value, default, flag = getattr(options, field.name), default_of(field), flag_of(field.name)
        least, most = field.metadata.get("range", (None, MOST))
        if isinstance(default, bool) and "nargs" not in field.metadata["arguments"]:
            if value not in (True, False):
                raise InputError(f"{flag} is a switch: expected True or False, got {short_repr(value)}")
        elif least is not None and value is not default and not any(value == other for other in field.metadata["also"]):
            sample = default[0] if isinstance(default, list) else default
            whole = field.metadata["arguments"].get("type", type(sample)) is int
            for number in value if isinstance(value, (list, tuple)) else [value]:
                is_number = isinstance(number, numbers.Integral if whole else numbers.Real)
                if not is_number or isinstance(number, bool) or not least <= number <= most:
                    bounds = f"be at least {least} and at most {most}" if whole else f"lie in [{least:g}, {most:g}]"
                    kind = ", a whole number" if whole else ""
                    others = "".join(f", or be {other}" for other in field.metadata["also"])
                    raise InputError(f"{flag} must {bounds}{kind}{others}, got {short_repr(number)}")


@dataclass
class TrainOptions:
    """Options of train.py; train_sparity.py and finetune.py add theirs."""

    script: ClassVar[str] = "train.py"
    keeps_anchors: ClassVar[bool] = False  # whether a trained head goes on with its anchors, however they fit

    weights: str = option(
        str(ROOT / "yolov5s.pt"),
        "start from this checkpoint; '' starts from scratch with --cfg",
        path=True,
        handed_on=False,
    )
    cfg: str = option("", "model YAML; default: the architecture stored in --weights", path=True, handed_on=False)
    data: str = option(str(ROOT / "data/coco128.yaml"), "data set YAML", on_resume=OPEN, path=True)
    allow_download_scripts: bool = option(
        False, "run the script that the data set YAML has for getting missing data", on_resume=CALL, handed_on=False
    )
    hyp: str = option(
        str(ROOT / "data/hyps/hyp.scratch-low.yaml"),
        "hyperparameter YAML",
        on_resume=FOLDER,
        path=True,
        handed_on=False,
    )
    epochs: int = option(300, "number of epochs", handed_on=False, at_least=1)
    batch_size: int = option(
        16, "images per batch, of all processes together; -1 = what the GPU has room for", at_least=1,
        also=(AUTO_BATCH,),
    )  # fmt: skip
    imgsz: int = option(
        640, "image size in pixels, longer side, for training and validation", "--img", "--img-size", at_least=1,
        at_most=LARGEST_IMAGE,
    )  # fmt: skip
    rect: bool = option(False, "rectangular batches: no mosaic, no shuffling", handed_on=False)
    resume: Any = option(
        False,
        "go on with an interrupted run: its last.pt, or the newest below runs/ when no path follows",
        nargs="?",
        const=True,
        type=str,
        on_resume=FOLDER,
        path=True,
        handed_on=False,
    )
    nosave: bool = option(False, "write checkpoints at the last epoch only", handed_on=False)
    noval: bool = option(False, "validate at the last epoch only", handed_on=False)
    noautoanchor: bool = option(False, "keep the anchors without checking them against the labels", handed_on=False)
    noplots: bool = option(False, "draw no pictures and no TensorBoard graph", on_resume=OPEN, handed_on=False)
    evolve: Any = option(
        None, "evolve the hyperparameters over this many generations", nargs="?", const=300, type=int, on_resume=CALL,
        handed_on=False, at_least=1,
    )  # fmt: skip
    cache: Any = option(
        "auto",
        "keep the resized images in memory (ram; val: those of validation only), in a file beside the labels (disk), "
        "in memory where they fit comfortably (auto), or not at all (none)",
        nargs="?",
        const="ram",
        choices=["auto", "ram", "disk", "val", "none"],
        type=str,
        on_resume=OPEN,
    )
    image_weights: bool = option(False, "draw images of classes that are detected badly more often", handed_on=False)
    device: str = option(
        "",
        "cpu, GPU number such as 0, several such as 0,1 for one process each, or mps; default: a GPU if there is one",
        on_resume=OPEN,
    )
    multi_scale: bool = option(False, "vary the image size by +-50 % from batch to batch", handed_on=False)
    single_cls: bool = option(False, "treat all classes as one")
    optimizer: str = option("SGD", "optimizer", choices=["SGD", "Adam", "AdamW"], handed_on=False)
    sync_bn: bool = option(
        False, "batch norm over the batches of all GPUs, with torchrun or several devices", handed_on=False
    )
    no_cuda_graph: bool = option(
        False,
        "on a GPU: launch the operations of a batch one by one instead of replaying them together",
        handed_on=False,
    )
    amp: str = option(
        "auto",
        "mixed precision: on (float16 on GPUs, bfloat16 on CPUs), off, a type, or auto: on with CUDA",
        choices=["auto", "on", "off", "float16", "bfloat16"],
    )
    compile: bool = option(
        False, "have torch.compile make kernels for the model, which takes minutes at first", handed_on=False
    )
    workers: int = option(8, "most data loading processes, of each training process", on_resume=OPEN, at_least=0)
    project: str = option(
        str(ROOT / "runs/train"),
        "folder of the runs; runs/evolve by default with --evolve",
        on_resume=FOLDER,
        path=True,
        handed_on=False,
    )
    name: str = option(
        "exp",
        "name of this run; exp, exp2, exp3, ... when taken; cfg = that of the --cfg file",
        on_resume=FOLDER,
        handed_on=False,
    )
    exist_ok: bool = option(False, "write into the run folder even if it exists", on_resume=FOLDER, handed_on=False)
    quad: bool = option(False, "make one image of four: twice the size, a quarter of the batch", handed_on=False)
    cos_lr: bool = option(False, "cosine instead of linear decay of the learning rate", handed_on=False)
    label_smoothing: float = option(0.0, "label smoothing epsilon", handed_on=False, at_least=0, at_most=1)
    patience: int = option(
        100, "stop after this many epochs without a better fitness; 0 = never", handed_on=False, at_least=0,
        at_most=10**9,
    )  # fmt: skip
    freeze: list[int] = option(
        [0], "layers to freeze: one number n = the first n, several = exactly those", nargs="+", handed_on=False,
        at_least=0,
    )  # fmt: skip
    save_period: int = option(
        -1, "also save epoch<N>.pt every this many epochs; below 1 = off", on_resume=OPEN, handed_on=False,
        at_least=-MOST, at_most=MOST,
    )  # fmt: skip
    seed: int = option(0, "seed of all random numbers", at_least=0, at_most=LARGEST_SEED)
    local_rank: int = option(
        -1, "given by launchers older than torchrun; must agree with LOCAL_RANK", "--local_rank", on_resume=CALL,
        handed_on=False, at_least=-1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse values that no run can use, by name."""
        check_numbers(self)
        if self.image_weights and self.rect:
            raise InputError(
                "--image-weights draws images at random, --rect sorts them by shape: leave one of them out"
            )
        if self.compile and (self.multi_scale or self.rect):
            raise InputError("--compile makes kernels for one image size: leave out --multi-scale and --rect")
        if self.quad and self.batch_size in range(4):
            raise InputError(f"--quad makes one image of four: --batch-size must be at least 4, got {self.batch_size}")
        if not self.freeze:
            raise InputError("--freeze takes layer numbers: give 0 to freeze none")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"--label-smoothing must lie in [0, 1), got {self.label_smoothing}")


def read_hyperparameters(source: str | Path | dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters from a YAML file or a mapping: every key known, present and in range.

    Raises:
        InputError: naming the first key that is missing, unknown, not a number or out of range.
    """
    values = dict(source) if isinstance(source, dict) else read_yaml_mapping(source)
    place = "the given hyperparameters" if isinstance(source, dict) else str(source)
    missing = [name for name in HYPERPARAMETER_RANGES if name not in values]
    if missing:
        raise InputError(f"{place} lacks {', '.join(missing)}: copy them from data/hyps/hyp.scratch-low.yaml")
    for name, value in values.items():
        if name not in HYPERPARAMETER_RANGES and name != "anchors":
            close = difflib.get_close_matches(str(name)[:100], HYPERPARAMETER_RANGES, n=1)
            raise InputError(
                f"{place}: unknown hyperparameter {short_repr(name)}"
                + (f", did you mean {close[0]!r}?" if close else "")
            )
        low, high = HYPERPARAMETER_RANGES.get(name, (1, 100))  # anchors: per level
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            hint = ": YAML takes 1e-3 for a text, write 1.0e-3 or 0.001" if _is_number(value) else ""
            raise InputError(f"{place}: {name} must be a number in [{low:g}, {high:g}], got {short_repr(value)}{hint}")
    return values


def _is_number(text: Any) -> bool:
    try:
        return isinstance(text, str) and math.isfinite(float(text))
    except ValueError:
        return False


def scale_gains(hyp: dict[str, Any], levels: int, class_count: int, image_size: int, label_smoothing: float) -> None:
    """Adapt the loss gains, which are given for 3 levels, 80 classes and 640 pixels, to this run, in place."""
    hyp["box"] *= 3 / levels
    hyp["cls"] *= class_count / 80 * 3 / levels
    hyp["obj"] *= (image_size / 640) ** 2 * 3 / levels
    hyp["label_smoothing"] = label_smoothing
