# syntax=docker/dockerfile:1
# The CPU image is the default: the gateway, the engines of the starter models, and those models, ready offline.
#   docker build -t roundhouse .
#   docker run -p 8000:8000 -e ROUNDHOUSE_API_KEYS=choose-one -v roundhouse:/data roundhouse
# Others are targets: `--target slim` (a gateway of remote models or of a cluster, no engine), `--target ray` (the CPU
# image for the nodes of a Ray cluster), `--target cuda` (vLLM and llama.cpp on NVIDIA's GPUs).
# All but cuda are for amd64 and arm64: docker buildx build --platform linux/amd64,linux/arm64 .

FROM python:3.11-slim-bookworm AS source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/roundhouse \
 && python -m venv /opt/sbom \
 && /opt/sbom/bin/pip install cyclonedx-bom==7.5.0
ENV PATH=/opt/roundhouse/bin:$PATH
WORKDIR /src
COPY deploy/*.lock deploy/

FROM source AS build-slim
RUN pip install --require-hashes --requirement deploy/requirements-slim.lock
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY routing routing
COPY backends backends
COPY catalog catalog
# What is in the image, for scanners: CycloneDX, made from what is really installed.
RUN pip install --no-deps --no-build-isolation . \
 && /opt/sbom/bin/cyclonedx-py environment --output-format JSON \
      --output-file /opt/roundhouse/sbom.cdx.json /opt/roundhouse/bin/python

FROM source AS build
RUN pip install --require-hashes --requirement deploy/requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY routing routing
COPY backends backends
COPY catalog catalog
RUN pip install --no-deps --no-build-isolation . \
 && ROUNDHOUSE_DATA_DIR=/data roundhouse pull starter \
 && /opt/sbom/bin/cyclonedx-py environment --output-format JSON \
      --output-file /opt/roundhouse/sbom.cdx.json /opt/roundhouse/bin/python

FROM build AS build-ray
RUN pip install --require-hashes --requirement deploy/requirements-ray.lock \
 && /opt/sbom/bin/cyclonedx-py environment --output-format JSON \
      --output-file /opt/roundhouse/sbom.cdx.json /opt/roundhouse/bin/python

FROM python:3.11-slim-bookworm AS runtime
LABEL org.opencontainers.image.title="Roundhouse" \
      org.opencontainers.image.description="OpenAI-compatible inference server for local and remote models" \
      org.opencontainers.image.licenses="Apache-2.0"
# libgomp: xllamacpp and CTranslate2 compute with OpenMP.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin roundhouse \
 && install --directory --owner roundhouse --group roundhouse /data
ENV PATH=/opt/roundhouse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ROUNDHOUSE_DATA_DIR=/data \
    ROUNDHOUSE_LOG__FORMAT=json \
    ROUNDHOUSE_SERVER__HOST=0.0.0.0
USER 10001
WORKDIR /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["roundhouse"]
CMD ["serve"]

FROM runtime AS slim
COPY --from=build-slim /opt/roundhouse /opt/roundhouse
VOLUME /data

FROM runtime AS ray
COPY --from=build-ray /opt/roundhouse /opt/roundhouse
COPY --from=build --chown=roundhouse:roundhouse /data /data
# KubeRay runs its own command (`ray start ...`), and by hand: docker run ... ray start --address=HEAD:6379 --block
ENTRYPOINT []
CMD ["ray", "start", "--head", "--block"]
VOLUME /data

# vLLM's packages exclude others', so it has an environment of its own, and it brings CUDA's libraries. llama.cpp is
# compiled: llama-cpp-python from its source, and xllamacpp's CUDA wheels are taken from XLLAMACPP_WHEELS, the address
# of their index, if it is given.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build-cuda
ARG CUDA_ARCHITECTURES="80;86;89;90"
ARG XLLAMACPP_WHEELS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-dev python3-venv build-essential cmake ninja-build \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY deploy/*.lock deploy/
RUN python3 -m venv /opt/roundhouse \
 && python3 -m venv /opt/vllm \
 && python3 -m venv /opt/sbom \
 && /opt/sbom/bin/pip install cyclonedx-bom==7.5.0 \
 && /opt/roundhouse/bin/pip install --require-hashes --requirement deploy/requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY routing routing
COPY backends backends
COPY catalog catalog
RUN /opt/roundhouse/bin/pip install --no-deps --no-build-isolation . \
 && /opt/vllm/bin/pip install '.[vllm]' \
 && CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}" \
      /opt/roundhouse/bin/pip install --no-binary llama-cpp-python 'llama-cpp-python>=0.3.8' \
 && if [ -n "$XLLAMACPP_WHEELS" ]; then \
      /opt/roundhouse/bin/pip install --force-reinstall --no-deps --index-url "$XLLAMACPP_WHEELS" xllamacpp; fi \
 && ROUNDHOUSE_DATA_DIR=/data /opt/roundhouse/bin/roundhouse pull starter
RUN for each in roundhouse vllm; do /opt/sbom/bin/cyclonedx-py environment --output-format JSON \
      --output-file /opt/$each/sbom.cdx.json /opt/$each/bin/python; done

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04 AS cuda
# A compiler: vLLM compiles its kernels for the GPU that it finds.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-dev gcc libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin roundhouse
COPY --from=build-cuda /opt/roundhouse /opt/roundhouse
COPY --from=build-cuda /opt/vllm /opt/vllm
COPY --from=build-cuda --chown=roundhouse:roundhouse /data /data
ENV PATH=/opt/roundhouse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ROUNDHOUSE_DATA_DIR=/data \
    ROUNDHOUSE_LOG__FORMAT=json \
    ROUNDHOUSE_SERVER__HOST=0.0.0.0 \
    ROUNDHOUSE_WORKERS__PYTHON='{"vllm": "/opt/vllm/bin/python"}'
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["roundhouse"]
CMD ["serve"]

FROM runtime
COPY --from=build /opt/roundhouse /opt/roundhouse
COPY --from=build --chown=roundhouse:roundhouse /data /data
VOLUME /data
