"""Run a network one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.yolo import DetectionModel
from utils.resources import available_memory

MEMORY_SHARE = 0.6  # of the free memory, to be filled by outputs


class Walk:
    """A network that runs layer by layer, each on all batches; outputs are kept while a later layer needs them.

    Args:
        model: a detection model, in evaluation mode.
        batches: images (B, 3, H, W) uint8.
    """

    def __init__(self, model: DetectionModel, batches: Sequence[Tensor]) -> None:
        self.layers: list[nn.Module] = list(model.model)
        self.weight = next(model.parameters())
        self.outputs: list[dict[int, Tensor]] = [{-1: images} for images in batches]  # by layer; -1: the images
        self.last_reader: dict[int, int] = {}
        for number in range(len(self.layers)):
            for source in self._sources(number):
                self.last_reader[source] = number

    def _sources(self, number: int) -> list[int]:
        """The layers that layer ``number`` reads."""
        declared = self.layers[number].f
        relative = declared if isinstance(declared, list) else [declared]  # negative numbers count back from this layer
        return [source if source >= 0 else number + source for source in relative]  # type: ignore[operator, misc]

    def run(self, number: int, batch: int) -> Tensor:
        """The output of layer ``number`` for one batch."""
        layer = self.layers[number]
        inputs = [self._prepared(self.outputs[batch][source]) for source in self._sources(number)]
        return layer(inputs if isinstance(layer.f, list) else inputs[0])

    def _prepared(self, value: Tensor) -> Tensor:
        if value.dtype == torch.uint8:  # images
            images = value.to(self.weight.device).to(self.weight.dtype) / 255
            return images.contiguous(memory_format=torch.channels_last)  # so all outputs are, too
        return value

    def advance(self, number: int) -> None:
        """Run layer ``number`` on all batches; drop outputs that no later layer reads."""
        for batch, outputs in enumerate(self.outputs):
            outputs[number] = self.run(number, batch)
            for source in list(outputs):
                if self.last_reader.get(source, -1) <= number:
                    del outputs[source]


@torch.no_grad()
def affordable_images(model: DetectionModel, image: Tensor) -> int | None:
    """The number of images that fit in memory when two such networks run layer by layer; None if that is unknown.

    Args:
        model: the larger of the two networks.
        image: an example (1, 3, H, W) uint8.
    """
    device = next(model.parameters()).device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if free is None:
        return None
    walk, most = Walk(model, [image]), 0
    for number in range(len(walk.layers)):
        before = sum(output.nbytes for output in walk.outputs[0].values())
        walk.advance(number)
        result = walk.outputs[0].get(number)
        most = max(most, before + (0 if result is None else result.nbytes))
    return max(int(MEMORY_SHARE * free / (2 * most)), 1)
