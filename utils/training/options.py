"""Options of train.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from utils.commands.options import (
    AUTO_BATCH,
    CALL,
    FOLDER,
    LARGEST_IMAGE,
    LARGEST_SEED,
    MOST,
    OPEN,
    CheckedOptions,
    as_list,
    option,
    settle,
)
from utils.errors import InputError
from utils.storage.files import ROOT, WORK
from utils.tracking.services import SERVICES, check_services


@dataclass(frozen=True)
class TrainOptions(CheckedOptions):
    """Options of train.py; train_sparity.py and finetune.py add theirs."""

    script: ClassVar[str] = "train.py"
    group: ClassVar[str] = "training, as in train.py"
    keeps_anchors: ClassVar[bool] = False  # a trained head keeps its anchors, however well they fit

    weights: str = option(
        str(WORK / "yolov5s.pt"),
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
    augment: str = option(
        "",
        "your own augmentation of training images: module:function or path/file.py:function, see docs/DATA.md",
        on_resume=OPEN,
    )
    rect: bool = option(False, "rectangular batches: no mosaic, no shuffling", handed_on=False)
    resume: bool | str = option(
        False,
        "continue an interrupted run: its last.pt, or the newest below runs/ when no path follows",
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
    evolve: int | None = option(
        None, "evolve the hyperparameters over this many generations", nargs="?", const=300, type=int, on_resume=CALL,
        handed_on=False, at_least=1,
    )  # fmt: skip
    cache: str = option(
        "auto",
        "keep the resized images in memory (ram; val: those of validation only), in a file next to the labels (disk), "
        "in memory where they fit comfortably (auto), or not at all (none)",
        nargs="?",
        const="ram",
        choices=["auto", "ram", "disk", "val", "none"],
        type=str,
        on_resume=OPEN,
    )
    image_weights: bool = option(False, "show images of classes that are detected badly more often", handed_on=False)
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
        False, "compile the model with torch.compile (the first batches take minutes)", handed_on=False
    )
    workers: int = option(8, "most data loading processes, of each training process", on_resume=OPEN, at_least=0)
    project: str = option(
        str(WORK / "runs/train"),
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
    label_smoothing: float = option(0.0, "label smoothing epsilon", handed_on=False, at_least=0, below=1)
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
    logger: list[str] = option(
        [], "also record the run by these services, whose packages must be installed", nargs="+",
        choices=list(SERVICES), on_resume=CALL, identity=False,
    )  # fmt: skip
    seed: int = option(0, "seed of all random numbers", at_least=0, at_most=LARGEST_SEED)
    local_rank: int = option(
        -1, "given by launchers older than torchrun; must agree with LOCAL_RANK", "--local_rank", on_resume=CALL,
        handed_on=False, at_least=-1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse values that no run can use, by name."""
        super().__post_init__()
        settle(self, logger=as_list(self.logger))
        check_services(self.logger)
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

    @property
    def start_file(self) -> str:
        """The checkpoint that the run starts from: that of --resume, else --weights; '' if there is none."""
        return str(self.resume or self.weights)
