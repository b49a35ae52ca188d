# The ranking service on a CPU: a language model by transformers.
# About 1.5 GB: Debian 75, Python 35, packages 1394, of which torch for a CPU 757 (docker/packages.py sizes).
FROM debian:12.14-slim AS build
# Debian keeps one version of a package, the one with its security fixes: a pinned one is gone tomorrow.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip ca-certificates gcc libc6-dev
RUN python3 -m venv --without-pip /opt/tandem
# torch first and alone: whatever build of the pinned version pip finds then stays. pip reads the
# build argument by itself: an index of CPU wheels makes the image some 4 GB smaller.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip --python /opt/tandem/bin/python install torch==2.13.0
WORKDIR /src
# The packages first, from the metadata alone: a changed source file does not fetch them again. A pip.conf of your own
# (docker build --secret id=pip,src=pip.conf) is read and left out of the image.
COPY pyproject.toml LICENSE docker/constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    touch README.md && pip --python /opt/tandem/bin/python install --constraint constraints.txt '.[ranking,fetch]'
COPY shared shared
COPY services services
COPY retriever retriever
COPY ranker ranker
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip --python /opt/tandem/bin/python install --constraint constraints.txt --no-deps --force-reinstall .
# The final image has no compiler. For x86-64; elsewhere torch's own operators do.
RUN [ "$(uname -m)" != x86_64 ] || /opt/tandem/bin/python -m ranker.engines.native /opt/tandem/kernels

FROM debian:12.14-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get upgrade -y \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-log-init --uid 10001 --user-group --home-dir /nonexistent --shell /usr/sbin/nologin tandem \
    && install -d -o tandem -g tandem /models
COPY --from=build /opt/tandem /opt/tandem
ENV PATH=/opt/tandem/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TANDEM_CACHE=/models/cache \
    TANDEM_KERNELS=/opt/tandem/kernels
USER 10001:10001
EXPOSE 8002
HEALTHCHECK --interval=5s --timeout=3s --start-period=180s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8002/readyz', timeout=2)"]
ENTRYPOINT ["tandem"]
CMD ["serve", "ranking", "--host", "0.0.0.0", "--registry", "/models"]
