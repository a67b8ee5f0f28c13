# CPU:  docker build -t videoaccel .
# CUDA: docker build -t videoaccel --build-arg BASE=pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime .
#       docker run --gpus all -v "$PWD:/work" videoaccel generate "a red circle moves left" -o out.mp4
ARG BASE=python:3.12-slim
FROM ${BASE}

# A compiler, which Triton and torch.compile call.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# On the CPU image PyTorch's own index has builds without CUDA; a CUDA image has PyTorch already, which stays.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -c "import torch" 2>/dev/null || pip install --no-cache-dir torch --index-url "${TORCH_INDEX}"

COPY . /src
RUN pip install --no-cache-dir "/src[report,eval]" && rm -rf /src

# Any user id may run it: nothing has to be written outside of the folder at hand.
WORKDIR /work
ENTRYPOINT ["videoaccel"]
CMD ["doctor"]
