# All commands in an image: for CPUs, or for NVIDIA GPUs with
# --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
#
#   docker build --tag yolov5-prune .
#   docker run --rm --ipc=host --user "$(id -u):$(id -g)" --volume "$PWD:/workspace" yolov5-prune yolov5-train --data mine.yaml
#
# On a GPU add --gpus all, which needs the NVIDIA Container Toolkit. Loader processes share images through /dev/shm, of
# which a container has 64 MB without --ipc=host.
FROM python:3.12-slim-bookworm

# Of opencv-python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# The large packages come first, so that a change of the sources does not install them again
WORKDIR /source
COPY requirements.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.6" "torchvision>=0.21" \
    && pip install --no-cache-dir -r requirements.txt "onnx>=1.16" "onnxruntime>=1.18"

COPY pyproject.toml setup.py MANIFEST.in requirements-export.txt README.md LICENSE ./
COPY train.py val.py detect.py export.py ./
COPY docs/DATA.md ./docs/
COPY data ./data
COPY models ./models
COPY prune_tools ./prune_tools
COPY utils ./utils
COPY yolov5_prune ./yolov5_prune
RUN pip install --no-cache-dir --no-deps .

# Runs, data sets and downloaded weights lie in the working folder; whoever the user is, caches can be written
ENV MPLCONFIGDIR=/var/tmp/matplotlib
WORKDIR /workspace
CMD ["python", "-m", "yolov5_prune", "train", "--help"]
