# syntax=docker/dockerfile:1
# The CPU default: the gateway, the engines of the starter models, and those models, ready offline.
#   docker build -t roundhouse .
#   docker run -p 8000:8000 -e ROUNDHOUSE_API_KEYS=choose-one -v roundhouse:/data roundhouse

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/roundhouse
ENV PATH=/opt/roundhouse/bin:$PATH
WORKDIR /src
COPY deploy/requirements.lock deploy/
RUN pip install --require-hashes --requirement deploy/requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY routing routing
COPY backends backends
COPY catalog catalog
RUN pip install --no-deps --no-build-isolation . \
 && ROUNDHOUSE_DATA_DIR=/data roundhouse pull starter
# What is in the image, for scanners: CycloneDX, made from what is really installed.
RUN python -m venv /opt/sbom \
 && /opt/sbom/bin/pip install cyclonedx-bom==7.5.0 \
 && /opt/sbom/bin/cyclonedx-py environment --output-format JSON \
      --output-file /opt/roundhouse/sbom.cdx.json /opt/roundhouse/bin/python

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Roundhouse" \
      org.opencontainers.image.description="OpenAI-compatible inference server for local and remote models" \
      org.opencontainers.image.licenses="Apache-2.0"
# libgomp: xllamacpp and CTranslate2 compute with OpenMP.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin roundhouse
COPY --from=build /opt/roundhouse /opt/roundhouse
COPY --from=build --chown=roundhouse:roundhouse /data /data
ENV PATH=/opt/roundhouse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ROUNDHOUSE_DATA_DIR=/data \
    ROUNDHOUSE_LOG__FORMAT=json \
    ROUNDHOUSE_SERVER__HOST=0.0.0.0
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["roundhouse"]
CMD ["serve"]
