"""The path of ``utils.dataloaders`` up to v6.1; nothing in this project imports this file."""

from utils.dataloaders import (
    IMG_FORMATS,
    VID_FORMATS,
    LoadImages,
    LoadImagesAndLabels,
    LoadScreenshots,
    LoadStreams,
    LoadWebcam,
    autosplit,
    create_dataloader,
    img2label_paths,
    letterbox,
)

__all__ = [
    "IMG_FORMATS",
    "VID_FORMATS",
    "LoadImages",
    "LoadImagesAndLabels",
    "LoadScreenshots",
    "LoadStreams",
    "LoadWebcam",
    "autosplit",
    "create_dataloader",
    "img2label_paths",
    "letterbox",
]
