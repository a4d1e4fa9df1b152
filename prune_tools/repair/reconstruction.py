"""Re-fit by least squares: the remaining channels take over the part of the removed ones.

A convolution that lost input channels can partly make up for them with its remaining inputs. In execution order each
convolution of the narrow network gets new weights, so that on real images its output, before the norm, is as near as
possible to that of the unpruned network (He et al., "Channel Pruning for Accelerating Very Deep Neural Networks",
ICCV 2017, applied to every layer with the inputs that the re-fitted layers before it give). It is ridge regression
towards the present weights, plus a constant that goes into the norm's mean or the bias::

    full network      x  ──conv──▶ y    at some positions of each image, mostly on its objects: the target
    narrow network    x' ──conv──▶ y'   x' around the same positions: the regressors

    min over W, c of   mean |W x' + c - y|^2  +  ridge * mean(x'^2) * |W - W_before|^2

Both networks advance layer by layer in parallel; every layer sees all images before the next one is entered.
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
from prune_tools.channels.structure import Structure
from prune_tools.channels.tracing import Step
from prune_tools.repair.layer_walk import Walk, affordable_images
from prune_tools.training_images import Batch
from prune_tools.yolo_pruned import Cut
from utils.log import LOGGER
from utils.resources import available_memory

RECORDING_SHARE = 0.25  # of the free memory that a recording may fill


@dataclass(frozen=True)
class RefitSettings:
    """Settings of a re-fit.

    Attributes:
        ridge: pull towards the present weights, as a share of the mean square of a regressor.
        positions: output positions sampled per image and convolution.
        seed: decides on these positions.
    """

    ridge: float = 0.01
    positions: int = 96
    seed: int = 0


@dataclass
class Reconstruction:
    """Result of a re-fit.

    Attributes:
        images: number of images that it was fitted on.
        unexplained: by path of the convolution, the share of the unpruned output's variance that the narrow one misses
            at the sampled positions, before and after the re-fit.
        of: the outputs that it was fitted to, in words.
    """

    images: int
    unexplained: dict[str, tuple[float, float]] = field(default_factory=dict)
    of: str = "unpruned"

    def summary(self) -> str:
        """One line for the log."""
        if not self.unexplained:
            return "Nothing to re-fit: no convolution lost an input"
        before = sum(before for before, _ in self.unexplained.values()) / len(self.unexplained)
        after = sum(after for _, after in self.unexplained.values()) / len(self.unexplained)
        return (
            f"{len(self.unexplained)} convolutions re-fitted on {self.images} images: the part of the {self.of} "
            f"outputs' variance that they miss fell from {before:.1%} to {after:.1%} on average"
        )


class _InputSeen(Exception):
    """Raised by a hook to leave a layer's forward pass as soon as a convolution's input is known."""


@dataclass
class Sample:
    """Positions in one batch and the output of the unpruned network there.

    ``positions``: (B, P) indices into the flattened map; ``values``: (B * P, C).
    """

    positions: Tensor
    values: Tensor


Recording = dict[str, list[Sample]]  # outputs of the unpruned network by path of the convolution, one for each batch


def empty_recording(full: DetectionModel, images: int, positions: int = RefitSettings.positions) -> Recording | None:
    """An empty cache of the full network's outputs, shared by calls of ``reconstruct``; None if it would not fit."""
    convolutions = [module for module in full.modules() if isinstance(module, nn.Conv2d)]
    size = sum(module.out_channels for module in convolutions) * images * positions * convolutions[0].weight.itemsize
    free = available_memory()
    return {} if free is not None and size < RECORDING_SHARE * free else None


class Regression:
    """Normal equations of one convolution, solved for each of its groups.

    The products of a batch are computed in the network's precision, their sums and everything else in float64. G is the
    number of groups, K the number of regressors of one output (inputs of its group times kernel area), O the number of
    outputs of a group, N the number of sampled positions.

    Attributes:
        count: N of all batches.
        xx: (G, K, K), sum over the positions of x x^T.
        xy: (G, K, O), sum of x y^T.
        yy: (G, O), sum of y^2.
        x: (G, K), sum of x.
        y: (G, O), sum of y.
    """

    def __init__(self, module: nn.Conv2d) -> None:
        self.module = module
        self.count = 0
        regressors = module.weight[0].numel()
        outputs = module.out_channels // module.groups
        self.xx = self._zeros(regressors, regressors)
        self.xy = self._zeros(regressors, outputs)
        self.yy = self._zeros(outputs)
        self.x = self._zeros(regressors)
        self.y = self._zeros(outputs)

    def _zeros(self, *shape: int) -> Tensor:
        """Zeros (G, *shape)."""
        return torch.zeros(self.module.groups, *shape, dtype=torch.double, device=self.module.weight.device)

    def add(self, inputs: Tensor, sample: Sample) -> None:
        """Add one batch: the convolution's input (B, C, H, W) and the wanted output."""
        x = patches(self.module, inputs, sample.positions)  # (G, N, K)
        y = sample.values.unflatten(1, (self.module.groups, -1)).transpose(0, 1)  # (N, C) -> (N, G, O) -> (G, N, O)
        self.count += x.shape[1]
        self.xx += x.transpose(1, 2) @ x
        self.xy += x.transpose(1, 2) @ y
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.yy += y.square().sum(1)

    def solve(self, ridge: float, constant: bool) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Weights like the module's, constants (C,), and the unexplained shares of the variance before and after.

        ``constant`` tells whether something can take up a constant; otherwise the constants are zero.
        """
        old = self.module.weight.detach().double().flatten(1)  # (C, K)
        old = old.unflatten(0, (self.module.groups, -1)).transpose(1, 2)  # (G, O, K) -> (G, K, O)
        mean_x = self.x / self.count if constant else self.x * 0  # (G, K)
        mean_y = self.y / self.count if constant else self.y * 0  # (G, O)
        xx = self.xx / self.count - mean_x[:, :, None] * mean_x[:, None, :]  # (G, K, K), covariances if constant
        xy = self.xy / self.count - mean_x[:, :, None] * mean_y[:, None, :]  # (G, K, O)
        yy = (self.yy / self.count - mean_y.square()).sum()  # variance of all outputs
        mean_square = self.xx.diagonal(dim1=1, dim2=2).mean(1) / self.count  # (G,), of a regressor
        damping = ridge * mean_square.clamp(min=1e-12)
        identity = torch.eye(xx.shape[-1], dtype=xx.dtype, device=xx.device)
        # (xx + damping * I) (new - old) = xy - xx old
        new = old + torch.linalg.solve(xx + damping[:, None, None] * identity, xy - xx @ old)  # (G, K, O)

        def unexplained(weights: Tensor) -> float:
            missing = yy - 2 * (weights * xy).sum() + (weights * (xx @ weights)).sum()
            return float((missing / yy).clamp(0, 1)) if yy > 0 else 0.0

        constants = (mean_y - (mean_x[:, None, :] @ new)[:, 0]).flatten()  # (G, O) -> (C,)
        weights = new.transpose(1, 2).flatten(0, 1).view_as(self.module.weight)  # (G, O, K) -> (C, K) -> the module's
        return weights, constants, (unexplained(old), unexplained(new))


def patches(module: nn.Conv2d, inputs: Tensor, positions: Tensor) -> Tensor:
    """The inputs under the kernel at ``positions`` (B, P) of the output map: (G, B * P, K) from inputs (B, C, H, W)."""
    height, width = module.kernel_size
    down, right = module.stride
    step_y, step_x = module.dilation
    padding = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = nn.functional.pad(inputs, padding, mode) if any(padding) else inputs
    columns = (padded.shape[3] - step_x * (width - 1) - 1) // right + 1  # of the output map
    rows = (positions // columns * down)[:, :, None, None]  # (B, P, 1, 1), top of the kernel in the padded map
    cols = (positions % columns * right)[:, :, None, None]  # (B, P, 1, 1), its left
    rows = rows + step_y * torch.arange(height, device=positions.device)[:, None]  # (B, P, height, 1)
    cols = cols + step_x * torch.arange(width, device=positions.device)  # (B, P, 1, width)
    batch = torch.arange(len(inputs), device=positions.device)[:, None, None, None]  # (B, 1, 1, 1)
    taps = padded.permute(0, 2, 3, 1)[batch, rows, cols]  # (B, P, height, width, C)
    grouped = taps.unflatten(-1, (module.groups, -1)).permute(4, 0, 1, 5, 2, 3)  # (G, B, P, C / G, height, width)
    return grouped.flatten(3).flatten(1, 2)  # (G, B * P, K)


class Refit:
    """One re-fit in progress: both networks advance layer by layer, and the narrow one's convolutions are solved.

    See ``reconstruct`` for the arguments.
    """

    def __init__(
        self,
        structure: Structure,
        pruned: DetectionModel,
        cuts: Mapping[str, Cut],
        batches: Sequence[Batch],
        settings: RefitSettings,
        recording: Recording | None,
    ) -> None:
        self.full = dict(structure.model.named_modules())
        self.narrow = dict(pruned.named_modules())
        images = [batch.images for batch in batches]
        self.full_walk = Walk(structure.model, images)
        self.narrow_walk = Walk(pruned, images)
        self.focus = [batch.focus for batch in batches]
        self.cuts, self.settings = cuts, settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.paths = ConstantPaths(structure.trace)
        self.constants: dict[str, Tensor] = {}  # (C,) of the full network's channels, by path of the solved convolution
        self.convolutions: dict[int, list[str]] = defaultdict(list)  # paths by layer, in execution order
        runs = Counter(step.name for step in structure.trace.steps if step.kind == "convolution")
        for path, count in runs.items():
            if count == 1 and isinstance(self.full[path], nn.Conv2d):
                self.convolutions[int(path.split(".")[1])].append(path)
            else:  # one set of weights for two jobs, or a transposed convolution
                LOGGER.info(f"{path} keeps its weights: only convolutions that run once are re-fitted")
        self.inputs_differ = False  # from the full network's, from here on
        self.result = Reconstruction(sum(map(len, images)))
        self.recording = recording
        paths = [path for layer in self.convolutions.values() for path in layer]
        self.is_recorded = recording is not None and all(len(recording.get(path, ())) == len(images) for path in paths)

    def layer(self, number: int) -> None:
        """Solve the convolutions of one layer and run it in both networks."""
        if self.is_recorded:
            assert self.recording is not None
            samples = self.recording
        else:
            samples = self._record(number)
        for path in self.convolutions[number]:
            if path not in self.narrow:  # of a silenced block: what follows sees other inputs
                self.inputs_differ = True
                continue
            cut = self.cuts.get(path)
            self.inputs_differ |= cut is not None and cut.inputs is not None
            if self.inputs_differ:
                self._solve(number, path, samples[path])
        self.narrow_walk.advance(number)

    def _record(self, number: int) -> Recording:
        """Run one layer of the full network and sample the outputs of its convolutions."""
        samples: Recording = {path: [] for path in self.convolutions[number]}
        hooks = [self.full[path].register_forward_hook(self._recorder(samples[path])) for path in samples]
        try:
            self.full_walk.advance(number)
        finally:
            for hook in hooks:
                hook.remove()
        if self.recording is not None:
            self.recording.update(samples)
        return samples

    def _recorder(self, samples: list[Sample]) -> Callable[..., None]:
        """A forward hook that appends a sample of a convolution's output, at positions drawn by the batch's focus."""

        def record(_: nn.Module, __: Any, output: Tensor) -> None:
            height, width = output.shape[2:]
            focus = nn.functional.adaptive_avg_pool2d(self.focus[len(samples)], (height, width)).flatten(1)  # (B, H W)
            count = min(self.settings.positions, focus.shape[1])
            positions = focus.multinomial(count, replacement=True, generator=self.generator).to(output.device)  # (B, P)
            maps = output.flatten(2)  # (B, C, H W)
            values = maps.gather(2, positions[:, None].expand(-1, maps.shape[1], -1))  # (B, C, P)
            samples.append(Sample(positions, values.transpose(1, 2).flatten(0, 1)))  # (B, P, C) -> (B * P, C)

        return record

    def _solve(self, number: int, path: str, samples: Sequence[Sample]) -> None:
        """Give the narrow convolution ``path`` of layer ``number`` its new weights, bias and norm means."""
        module: Any = self.narrow[path]
        cut = self.cuts.get(path)
        kept = slice(None) if cut is None or cut.outputs is None else cut.outputs
        regression = Regression(module)
        for inputs, sample in zip(self._inputs(number, module), samples, strict=True):
            regression.add(inputs, Sample(sample.positions, sample.values[:, kept]))
        constant = module.bias is not None or self.paths.end_in_norms(path)
        weights, constants, self.result.unexplained[path] = regression.solve(self.settings.ridge, constant)
        module.weight.copy_(weights)
        if module.bias is not None:
            module.bias.copy_(constants)
            constants = torch.zeros_like(constants)
        self.constants[path] = torch.zeros(self.full[path].out_channels, dtype=torch.double)
        self.constants[path][kept] = constants.cpu()
        for norm in self.paths.norms(path):
            self._set_mean(path, norm)

    def _set_mean(self, path: str, norm: Step) -> None:
        """Set the mean of ``norm`` where the convolution ``path`` arrives: conv + c - mean = conv - (mean - c).

        The mean is the full network's, because the targets of the re-fit include what folding has moved into the narrow
        one's.
        """
        narrow: Any = self.narrow[norm.name]
        if narrow.running_mean is None:  # it subtracts each batch's mean, and the constant with it
            return
        mean = self.full[norm.name].running_mean.cpu().double() - self.paths.at(norm, self.constants)  # (C,)
        arrives = self.paths.at(norm, {path: torch.ones_like(self.constants[path])}) != 0  # (C,) bool
        cut = self.cuts.get(norm.name)
        if cut is not None and cut.outputs is not None:
            mean, arrives = mean[cut.outputs], arrives[cut.outputs]  # (K,)
        narrow.running_mean.copy_(torch.where(arrives, mean, narrow.running_mean.cpu()))

    def _inputs(self, number: int, module: nn.Module) -> Iterator[Tensor]:
        """Yield the input of ``module``, in layer ``number`` of the narrow network, batch by batch."""
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
    structure: Structure,
    pruned: DetectionModel,
    cuts: Mapping[str, Cut],
    batches: Sequence[Batch],
    recording: Recording | None = None,
    settings: RefitSettings | None = None,
    all_differ: bool = False,
) -> Reconstruction:
    """Re-fit every convolution of ``pruned`` whose inputs differ from those in the full network, in place.

    Where memory is short, fewer batches are used and a warning says so.

    Args:
        structure: of the network before surgery, in evaluation mode.
        pruned: the narrowed network, in evaluation mode; its norms keep gamma, beta and variance. Blocks of the full
            network may be identities in it.
        cuts: the channels that surgery kept of each module (the result of ``prune_model``).
        batches: training images; they and both networks' maps of them are kept in memory.
        recording: an ``empty_recording``, filled by the first call; further calls with the same network, batches and
            settings need not run the full network again.
        settings: default: ``RefitSettings()``.
        all_differ: the inputs of all convolutions differ, though no channel is gone, as with another activation.

    Returns:
        How much of each output could not be explained, before and after.
    """
    full = structure.model
    most = affordable_images(full, batches[0].images[:1])
    if most is not None and most < sum(len(batch.images) for batch in batches):
        batches = batches[: max(most // len(batches[0].images), 1)]
        LOGGER.warning(f"Memory is short: re-fitting on {sum(len(batch.images) for batch in batches)} images only")
    refit = Refit(structure, pruned, cuts, batches, settings or RefitSettings(), recording)
    refit.inputs_differ = all_differ
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 would round regressors and targets
        for number in tqdm(range(len(full.model)), "Re-fitting layers", disable=None, leave=False):
            refit.layer(number)
    return refit.result
