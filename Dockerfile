# A node in a container; what follows the image's name is options of `gossipnode start`:
#   docker build -t gossipnode .
#   docker run --name node --network host -v gossipnode:/data gossipnode --shard 1/8 --peers ADDRESS
#   docker exec node gossipnode status --home /data
# The host's network, because the address of a container means nothing to peers on other machines. More: docs/running.md
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libgmp-dev && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/gossipnode
ENV PATH=/opt/gossipnode/bin:$PATH
# Give --build-arg TORCH="torch==2.13.0 --index-url URL" to choose a build of torch (CPU only, another CUDA).
ARG TORCH="torch==2.13.0"
RUN pip install $TORCH
COPY constraints.txt /src/
RUN pip install --no-deps --require-hashes --use-pep517 -r /src/constraints.txt
COPY pyproject.toml README.md LICENSE /src/
COPY gossipnode /src/gossipnode
COPY protocols /src/protocols
COPY sampling /src/sampling
COPY verify /src/verify
RUN pip install --no-deps /src && pip check

FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgmp10 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /data gossipnode \
    && install -d -o gossipnode -g gossipnode -m 0700 /data
COPY --from=build /opt/gossipnode /opt/gossipnode
ENV PATH=/opt/gossipnode/bin:$PATH PYTHONUNBUFFERED=1
USER gossipnode
WORKDIR /data
# The identity, the store and the journals; lose the volume and the node comes back as a stranger.
VOLUME /data
EXPOSE 4001
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["gossipnode", "start", "--home", "/data", "--listen", "/ip4/0.0.0.0/tcp/4001", "--http", "127.0.0.1:8080"]
