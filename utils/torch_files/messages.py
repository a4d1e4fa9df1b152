"""The message for a file that is refused: what it is, why it cannot be used, what to do."""

from __future__ import annotations

from pathlib import Path

from utils.torch_files.records import Damage, ForeignName, Refusal

_READ_HERE = "a model of YOLOv5 v5.0 to v7.0 or of this program is needed"
_THAT_PACKAGE = f"use it with that package; here {_READ_HERE}"
_THAT_PROGRAM = f"use it with that program; here {_READ_HERE}"
_SAVE_AGAIN = "open it with the program that wrote it and save it again as a stock checkpoint"

# Prefixes of class names of other programs -> what the file is, and what to do; the longest matching one counts
HOMES = {
    "ultralytics.": ("a model of the package ultralytics (YOLOv8 and later, YOLOv5u), which this program cannot read",
                     _THAT_PACKAGE),
    "yolov5.": ("a model of the pip package yolov5, whose classes have other names than YOLOv5's own",
                f"{_SAVE_AGAIN} (its export writes the formats that detect.py runs)"),
    "models.yolo.ClassificationModel": ("of another task, a ClassificationModel", "expected a detection checkpoint"),
    "models.yolo.SegmentationModel": ("of another task, a SegmentationModel", "expected a detection checkpoint"),
    "models.yolo.Segment": ("of another task, segmentation", "expected a detection checkpoint"),
    "models.common.Classify": ("of another task, classification", "expected a detection checkpoint"),
    "models.common.DetectMultiBackend": ("a model in the wrapper for inference",
                                         "save the model inside it, torch.save({'model': wrapper.model}, path)"),
    "models.common.AutoShape": ("a model in the wrapper of torch.hub",
                                "save the model inside it, torch.save({'model': wrapper.model.model}, path)"),
    "models.common.autoShape": ("a model in the wrapper of torch.hub",
                                "save the model inside it, torch.save({'model': wrapper.model}, path)"),
    "builtins.getattr": ("a fused model, whose layers keep functions of their own",
                         "save it before fuse(), or take the checkpoint that it was made from"),
    "yolox.": ("a model of YOLOX", _THAT_PROGRAM),
    "yolov6.": ("a model of YOLOv6", _THAT_PROGRAM),
    "mmdet.": ("a model of MMDetection", _THAT_PROGRAM),
    "mmengine.": ("a model of MMDetection or MMYOLO", _THAT_PROGRAM),
    "mmcv.": ("a model of MMDetection", _THAT_PROGRAM),
    "detectron2.": ("a model of Detectron2", _THAT_PROGRAM),
    "super_gradients.": ("a model of SuperGradients (YOLO-NAS)", _THAT_PROGRAM),
    "rfdetr.": ("a model of RF-DETR", _THAT_PROGRAM),
    "torchvision.": ("a model of torchvision", _THAT_PACKAGE),
    "timm.": ("a model of timm", _THAT_PACKAGE),
    "transformers.": ("a model of transformers", _THAT_PACKAGE),
    "pytorch_lightning.": ("a checkpoint of PyTorch Lightning", _THAT_PACKAGE),
    "lightning.": ("a checkpoint of PyTorch Lightning", _THAT_PACKAGE),
    "torch.ao.": ("a quantized or prepared model of torch", "take the checkpoint that it was made from"),
    "torch.nn.quantized.": ("a quantized model of torch", "take the checkpoint that it was made from"),
    "torch.nn.intrinsic.": ("a quantized or prepared model of torch", "take the checkpoint that it was made from"),
    "torch.fx.": ("a traced model of torch.fx", "take the checkpoint that it was made from"),
    "torch.jit.": ("a compiled model of torch.jit", "take the checkpoint that it was made from"),
    "torch.nn.parallel.": ("a model in the wrapper for several GPUs",
                           "save the model inside it, torch.save({'model': wrapper.module}, path)"),
    "torch.nn.modules.": ("a model with a layer of torch that detectors do not have", f"here {_READ_HERE}"),
}  # fmt: skip
_YOLOV7 = ("a model of YOLOv7, which this program cannot read", _THAT_PROGRAM)
_YOLOV9 = ("a model of YOLOv9, which this program cannot read", _THAT_PROGRAM)
_YOLOR = ("a model of YOLOR, which this program cannot read", _THAT_PROGRAM)
# Other programs have modules of the same names as YOLOv5: there the class identifies them
_BLOCKS = (
    (_YOLOV7, "models.yolo.", "IDetect IAuxDetect IBin IKeypoint MT"),
    (_YOLOV7, "models.common.", "RepConv RepConv_OREPA OREPA_3x3_RepConv SPPCSPC GhostSPPCSPC MP SP ReOrg Chuncat "
                                "Shortcut Foldcut Stem DownC ImplicitA ImplicitM BottleneckCSPA BottleneckCSPB "
                                "BottleneckCSPC RepBottleneck Res ResX Ghost SwinTransformerBlock STCSPA STCSPB"),
    (_YOLOV9, "models.yolo.", "DDetect DualDetect DualDDetect TripleDetect TripleDDetect Panoptic"),
    (_YOLOV9, "models.common.", "ADown AConv SPPELAN ELAN1 RepNCSPELAN4 RepNCSP RepNBottleneck RepConvN CBLinear "
                                "CBFuse Silence DFL"),
    (_YOLOR, "models.models.", "Darknet YOLOLayer JDELayer"),
    (_YOLOR, "utils.layers.", "WeightedFeatureFusion FeatureConcat ScaleChannel"),
)  # fmt: skip
for _what, _home, _classes in _BLOCKS:
    HOMES |= {_home + _class: _what for _class in _classes.split()}


def message(path: str | Path, refusal: Refusal) -> str:
    """Return in one line why ``path`` cannot be used."""
    reason = str(refusal)
    if isinstance(refusal, ForeignName):
        return _foreign(path, reason)
    known = {
        "empty": "is empty: copy or download it again",
        "another kind": "is not a PyTorch checkpoint: expected a file written by torch.save, such as yolov5n.pt",
        "another archive": "is a zip archive but not a PyTorch checkpoint: expected a file written by torch.save",
        "TorchScript": "is a TorchScript export: use the .pt checkpoint that it was made from, or rename it to "
                       "end with .torchscript if it is to be run",
        "incomplete": "is incomplete: it ends before its index; copy or download it again",
    }  # fmt: skip
    if reason in known:
        return f"{path} {known[reason]}"
    if isinstance(refusal, Damage):
        return f"{path} is damaged, {reason}: copy or download it again"
    return (
        f"{path} is refused, nothing of it was run: {reason}; no checkpoint of YOLOv5 or of this program is like that"
    )


def _foreign(path: str | Path, name: str) -> str:
    home = max((home for home in HOMES if _begins(name, home)), key=len, default=None)
    if home is not None:
        what, remedy = HOMES[home]
        return f"{path} is {what}: {remedy} (it asks for {name}; nothing of it was run)"
    return (
        f"{path} is refused, nothing of it was run: it asks for {name}, which no detection checkpoint needs; "
        f"if you trust its author, {_SAVE_AGAIN}"
    )


def _begins(name: str, home: str) -> bool:
    return name.startswith(home) if home.endswith(".") else name == home
