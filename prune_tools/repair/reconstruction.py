"""Re-fit by least squares: the channels that stay take over the part of those that were removed.

A convolution that lost input channels can partly make up for them with the inputs that it still has. In execution order
each convolution of the narrow network is solved anew, so that on real images its output, before the norm, comes as near
as possible to that of the unpruned network (He et al., "Channel Pruning for Accelerating Very Deep Neural Networks",
ICCV 2017, applied to every layer with the inputs that the layers re-fitted before it give). It is ridge regression
towards the weights that are there, plus a constant that goes into the norm's mean or the bias::

    full network      x  ──conv──▶ y    at some places of each image, mostly on its objects: the target
    narrow network    x' ──conv──▶ y'   x' around the same places: the regressors

    min over W, c of   mean |W x' + c - y|^2  +  ridge * mean(x'^2) * |W - W_before|^2

Both networks walk through their layers side by side; every layer sees all images before the next one is entered.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.yolo import DetectionModel
from prune_tools.channels.constant_paths import ConstantPaths
from prune_tools.channels.tracing import Step, Trace
from prune_tools.repair.calibration import Batch
from prune_tools.repair.layer_walk import Walk, affordable_images
from prune_tools.yolo_pruned import Cut
from utils.log import LOGGER
from utils.resources import available_memory

PLACES = 96  # output positions per image and convolution
RECORDING_SHARE = 0.25  # of the free memory that a recording may fill
RIDGE = 0.01  # pull towards the old weights, as a share of the mean square of a regressor


@dataclass
class Reconstruction:
    """What the re-fit has reached.

    ``unexplained``: by path of the convolution, the part of the unpruned output's variance that the narrow one misses
    at the sampled places, before and after its weights were solved.
    """

    images: int
    unexplained: dict[str, tuple[float, float]] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for the log."""
        if not self.unexplained:
            return "Nothing to re-fit: no convolution lost an input"
        before, after = (sum(values) / len(values) for values in zip(*self.unexplained.values(), strict=True))
        return (
            f"{len(self.unexplained)} convolutions re-fitted on {self.images} images: the part of the unpruned "
            f"outputs' variance that they miss fell from {before:.1%} to {after:.1%} on average"
        )


class _InputSeen(Exception):
    """Raised by a hook to leave a layer's forward pass as soon as a convolution's input is known."""


@dataclass
class Sample:
    """Places in one batch and the output of the unpruned network there.

    ``places``: (B, P) indices into the flattened map; ``values``: (B * P, C).
    """

    places: Tensor
    values: Tensor


Recording = dict[str, list[Sample]]  # what the unpruned network gives: by path of the convolution, for each batch


def empty_recording(full: DetectionModel, images: int, places: int = PLACES) -> Recording | None:
    """Where several calls of ``reconstruct`` may keep what ``full`` gives; None where memory is too short for that."""
    convolutions = [module for module in full.modules() if isinstance(module, nn.Conv2d)]
    size = sum(module.out_channels for module in convolutions) * images * places * convolutions[0].weight.itemsize
    free = available_memory()
    return {} if free is not None and size < RECORDING_SHARE * free else None


class Regression:
    """Normal equations of one convolution: of a batch in the network's precision, their sum and the rest in float64.

    K is the number of regressors of one output (inputs of its group times kernel area), G the number of groups.
    """

    def __init__(self, module: nn.Conv2d) -> None:
        self.module = module
        groups, self.count = module.groups, 0
        size = module.weight[0].numel()
        outputs = module.out_channels // groups

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.double, device=module.weight.device)

        self.xx, self.xy, self.yy = zeros(size, size), zeros(size, outputs), zeros(outputs)
        self.x, self.y = zeros(size), zeros(outputs)

    def add(self, inputs: Tensor, sample: Sample) -> None:
        """Take in one batch: the convolution's input (B, C, H, W) and what its output should be."""
        x = patches(self.module, inputs, sample.places)
        y = sample.values.unflatten(1, (self.module.groups, -1)).transpose(0, 1)  # (G, B * P, outputs)
        self.count += x.shape[1]
        self.xx += x.transpose(1, 2) @ x
        self.xy += x.transpose(1, 2) @ y
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.yy += y.square().sum(1)

    def solve(self, ridge: float, constant: bool) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Weights like the module's, constants (C,), and the unexplained parts of the variance before and after.

        ``constant`` tells whether the layer has a place for a constant; without one it is zero.
        """
        old = self.module.weight.detach().double().flatten(1).unflatten(0, (self.module.groups, -1)).transpose(1, 2)
        mean_x, mean_y = (self.x / self.count, self.y / self.count) if constant else (self.x * 0, self.y * 0)
        xx = self.xx / self.count - mean_x[:, :, None] * mean_x[:, None, :]
        xy = self.xy / self.count - mean_x[:, :, None] * mean_y[:, None, :]
        yy = (self.yy / self.count - mean_y.square()).sum()
        damping = ridge * (self.xx.diagonal(dim1=1, dim2=2).mean(1) / self.count).clamp(min=1e-12)
        eye = torch.eye(xx.shape[-1], dtype=xx.dtype, device=xx.device)
        new = old + torch.linalg.solve(xx + damping[:, None, None] * eye, xy - xx @ old)

        def unexplained(weights: Tensor) -> float:
            missing = yy - 2 * (weights * xy).sum() + (weights * (xx @ weights)).sum()
            return float((missing / yy).clamp(0, 1)) if yy > 0 else 0.0

        constants = (mean_y - (mean_x[:, None, :] @ new)[:, 0]).flatten()
        weights = new.transpose(1, 2).flatten(0, 1).view_as(self.module.weight)
        return weights, constants, (unexplained(old), unexplained(new))


def patches(module: nn.Conv2d, inputs: Tensor, places: Tensor) -> Tensor:
    """Return what the kernel covers at ``places`` (B, P) of the output map: (G, B * P, K) from inputs (B, C, H, W)."""
    (height, width), (down, right), (step_y, step_x) = module.kernel_size, module.stride, module.dilation
    padding = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = nn.functional.pad(inputs, padding, mode) if any(padding) else inputs
    columns = (padded.shape[3] - step_x * (width - 1) - 1) // right + 1
    rows = (places // columns * down)[:, :, None, None] + step_y * torch.arange(height, device=places.device)[:, None]
    cols = (places % columns * right)[:, :, None, None] + step_x * torch.arange(width, device=places.device)
    batch = torch.arange(len(inputs), device=places.device)[:, None, None, None]
    taps = padded.permute(0, 2, 3, 1)[batch, rows, cols]  # (B, P, height, width, C)
    grouped = taps.unflatten(-1, (module.groups, -1)).permute(4, 0, 1, 5, 2, 3)  # (G, B, P, C / G, height, width)
    return grouped.flatten(3).flatten(1, 2)


class Refit:
    """Walks the full and the narrow network side by side and solves the narrow one's convolutions in execution order.

    See ``reconstruct`` for the arguments.
    """

    def __init__(
        self, full: DetectionModel, pruned: DetectionModel, trace: Trace, cuts: Mapping[str, Cut],
        batches: Sequence[Batch], ridge: float, places: int, seed: int, recording: Recording | None,
    ) -> None:  # fmt: skip
        self.full, self.narrow = dict(full.named_modules()), dict(pruned.named_modules())
        images = [batch.images for batch in batches]
        self.full_walk, self.narrow_walk = Walk(full, images), Walk(pruned, images)
        self.focus = [batch.focus for batch in batches]
        self.cuts, self.ridge, self.places = cuts, ridge, places
        self.generator = torch.Generator().manual_seed(seed)
        self.paths = ConstantPaths(trace)
        self.constants: dict[str, Tensor] = {}  # (C,) of the full network's channels, by path of the solved convolution
        self.order: dict[int, list[str]] = defaultdict(list)  # layer -> its convolutions in execution order
        runs = Counter(step.name for step in trace.steps if step.kind == "convolution")
        for path, count in runs.items():
            if count == 1 and isinstance(self.full[path], nn.Conv2d):
                self.order[int(path.split(".")[1])].append(path)
            else:  # one set of weights for two jobs, or a transposed convolution
                LOGGER.info(f"{path} keeps its weights: only convolutions that run once are re-fitted")
        self.changed = False  # whether the inputs of what comes next differ from the full network's
        self.result = Reconstruction(sum(map(len, images)))
        self.recording: Recording = {} if recording is None else recording
        self.keeps = recording is not None
        paths = [path for layer in self.order.values() for path in layer]
        self.known = all(len(self.recording.get(path, ())) == len(images) for path in paths)

    def layer(self, number: int) -> None:
        """Solve the convolutions of one layer and send both networks through it."""
        samples = self.recording if self.known else self._record(number)
        for path in self.order[number]:
            cut = self.cuts.get(path)
            self.changed |= cut is not None and cut.inputs is not None
            if self.changed:
                self._solve(number, path, samples[path])
        self.narrow_walk.advance(number)

    def _record(self, number: int) -> Recording:
        """Send the full network through one layer; what its convolutions give is kept where that is wanted."""
        samples: Recording = {path: [] for path in self.order[number]}
        hooks = [self.full[path].register_forward_hook(self._recorder(path, samples)) for path in samples]
        try:
            self.full_walk.advance(number)
        finally:
            for hook in hooks:
                hook.remove()
        if self.keeps:
            self.recording.update(samples)
        return samples

    def _recorder(self, path: str, samples: Recording) -> Callable[..., None]:
        """A forward hook that notes the output of the full network's convolution ``path`` at places of its focus."""

        def record(_: nn.Module, __: Any, output: Tensor) -> None:
            height, width = output.shape[2:]
            focus = nn.functional.adaptive_avg_pool2d(self.focus[len(samples[path])], (height, width)).flatten(1)
            count = min(self.places, focus.shape[1])
            places = focus.multinomial(count, replacement=True, generator=self.generator).to(output.device)
            maps = output.flatten(2)
            values = maps.gather(2, places[:, None].expand(-1, maps.shape[1], -1))  # (B, C, P)
            samples[path].append(Sample(places, values.transpose(1, 2).flatten(0, 1)))

        return record

    def _solve(self, number: int, path: str, samples: Sequence[Sample]) -> None:
        module: Any = self.narrow[path]
        cut = self.cuts.get(path)
        kept = slice(None) if cut is None or cut.outputs is None else cut.outputs
        regression = Regression(module)
        for inputs, sample in zip(self._inputs(number, module), samples, strict=True):
            regression.add(inputs, Sample(sample.places, sample.values[:, kept]))
        constant = module.bias is not None or self.paths.have_place(path)
        weights, constants, self.result.unexplained[path] = regression.solve(self.ridge, constant)
        module.weight.copy_(weights)
        if module.bias is not None:
            module.bias.copy_(constants)
            constants = torch.zeros_like(constants)
        self.constants[path] = torch.zeros(self.full[path].out_channels, dtype=torch.double)
        self.constants[path][kept if isinstance(kept, slice) else kept.cpu()] = constants.cpu()
        for norm in self.paths.norms(path):
            self._take_off(path, norm)

    def _take_off(self, path: str, norm: Step) -> None:
        """Set the mean of ``norm`` where the convolution ``path`` arrives: conv + c - mean = conv - (mean - c).

        From the full network's mean: what folding has moved into the narrow one's is in the targets of the re-fit, too.
        """
        narrow: Any = self.narrow[norm.name]
        if narrow.running_mean is None:  # it takes off the mean of each batch, and the constant with it
            return
        mean = self.full[norm.name].running_mean.cpu().double() - self.paths.at(norm, self.constants)
        arrives = self.paths.at(norm, {path: torch.ones_like(self.constants[path])}) != 0
        cut = self.cuts.get(norm.name)
        if cut is not None and cut.outputs is not None:
            mean, arrives = mean[cut.outputs.cpu()], arrives[cut.outputs.cpu()]
        narrow.running_mean.copy_(torch.where(arrives, mean, narrow.running_mean.cpu()))

    def _inputs(self, number: int, module: nn.Module) -> Iterator[Tensor]:
        """Yield what ``module`` of layer ``number`` reads in the narrow network, batch by batch."""
        seen: list[Tensor] = []

        def stop(_: nn.Module, inputs: tuple[Tensor]) -> None:
            seen.append(inputs[0])
            raise _InputSeen

        hook = module.register_forward_pre_hook(stop)
        try:
            for batch in range(len(self.narrow_walk.outputs)):
                with contextlib.suppress(_InputSeen):
                    self.narrow_walk.run(number, batch)
                yield seen.pop()
        finally:
            hook.remove()


@torch.no_grad()
def reconstruct(
    full: DetectionModel, pruned: DetectionModel, trace: Trace, cuts: Mapping[str, Cut], batches: Sequence[Batch], *,
    ridge: float = RIDGE, places: int = PLACES, seed: int = 0, recording: Recording | None = None,
) -> Reconstruction:  # fmt: skip
    """Re-fit every convolution of ``pruned`` whose inputs differ from those in ``full``, in place.

    Args:
        full: the network before surgery, in evaluation mode.
        pruned: the narrowed network, in evaluation mode; its norms keep gamma, beta and variance.
        trace: the trace of ``full``.
        cuts: what surgery kept of each module (the result of ``prune_model``).
        batches: training images; they and both networks' maps of them lie in memory.
        ridge: pull towards the weights that are there, as a share of the mean square of a regressor.
        places: output positions sampled per image and convolution.
        seed: of the places.
        recording: filled by the first call with what ``full`` gives; further calls with the same ``full``, batches,
            places and seed then need not run it again.

    Returns:
        How much of each output could not be explained, before and after.

    Where memory is short, it does with fewer batches and says so.
    """
    most = affordable_images(full, batches[0].images[:1])
    if most is not None and most < sum(len(batch.images) for batch in batches):
        batches = batches[: max(most // len(batches[0].images), 1)]
        LOGGER.warning(f"Memory is short: re-fitting on {sum(len(batch.images) for batch in batches)} images only")
    refit = Refit(full, pruned, trace, cuts, batches, ridge, places, seed, recording)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # the regressors and their targets, exactly
        for number in tqdm(range(len(full.model)), "Re-fitting layers", disable=None, leave=False):
            refit.layer(number)
    return refit.result
