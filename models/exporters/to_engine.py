"""TensorRT engines (TensorRT 10 and 11): length of the metadata (4 bytes, little-endian), metadata, engine.

An engine runs only on the kind of GPU and with the version of TensorRT that it was built with.
"""

from __future__ import annotations

from typing import Any

from models.backends.tensorrt import LENGTH_BYTES
from models.exporters.job import ExportJob
from models.exporters.to_onnx import INPUT, onnx_model
from utils.commands.packages import require
from utils.errors import InputError

DEFAULT_WORKSPACE_GIB = 4


def export(job: ExportJob) -> None:
    """Build on the GPU of ``job.image`` and write ``job.path``."""
    tensorrt = require("tensorrt", "--include engine")
    logger = tensorrt.Logger(tensorrt.Logger.VERBOSE if job.settings.verbose else tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    # Each layer computes in its type in the graph: with --half FP16, but boxes are decoded in FP32
    typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(onnx_model(job).SerializeToString()):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise InputError(f"TensorRT {tensorrt.__version__} cannot read the ONNX graph: {reasons}".replace("\n", " "))
    config = builder.create_builder_config()
    workspace = job.settings.workspace or DEFAULT_WORKSPACE_GIB
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, int(workspace * 2**30))
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # which has the precision of FP16
    if job.metadata.dynamic:
        config.add_optimization_profile(_profile(builder, job))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise InputError(
            f"TensorRT {tensorrt.__version__} could not build the engine: its log above says why; a larger --workspace "
            "may help"
        )
    content = job.metadata.to_json().encode()
    with open(job.path, "wb") as stream:
        stream.write(len(content).to_bytes(LENGTH_BYTES, "little"))
        stream.write(content)
        stream.write(engine)


def _profile(builder: Any, job: ExportJob) -> Any:
    """Shapes that a dynamic engine takes: from one image of the smallest size to the full batch at the full size."""
    batch, _, height, width = job.image.shape
    stride = job.metadata.stride
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, (1, 3, stride, stride), (max(batch // 2, 1), 3, height, width), (batch, 3, height, width))
    return profile
