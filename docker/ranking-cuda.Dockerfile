# The ranking service on an NVIDIA GPU: a language model by vLLM, which pins its own torch and transformers.
# Some 10 GB, an estimate: nothing here could build it. CUDA's libraries come in torch's own wheels; the base adds 400 MB.
FROM nvidia/cuda:13.0.3-base-ubuntu24.04 AS build
# Ubuntu keeps one version of a package, the one with its security fixes: a pinned one is gone tomorrow.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip ca-certificates
RUN python3 -m venv --without-pip /opt/tandem
WORKDIR /src
# The packages first, from the metadata alone: a changed source file does not fetch them again. A pip.conf of your own
# (docker build --secret id=pip,src=pip.conf) is read and left out of the image.
COPY pyproject.toml LICENSE ./
# vLLM pins what it needs.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    touch README.md && pip --python /opt/tandem/bin/python install '.[ranking,fetch,vllm]'
COPY shared shared
COPY services services
COPY retriever retriever
COPY ranker ranker
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip --python /opt/tandem/bin/python install --no-deps --force-reinstall .

FROM nvidia/cuda:13.0.3-base-ubuntu24.04
# A compiler in the final stage, against the rule: Triton compiles its kernels' launchers when they are first used.
# hadolint ignore=DL3008
RUN apt-get update && apt-get upgrade -y \
    && apt-get install -y --no-install-recommends python3 python3-dev gcc libc6-dev ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-log-init --uid 10001 --user-group --home-dir /nonexistent --shell /usr/sbin/nologin tandem \
    && install -d -o tandem -g tandem /models
COPY --from=build /opt/tandem /opt/tandem
# What Triton and vLLM compile goes to /tmp, the one place that can be written.
ENV PATH=/opt/tandem/bin:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TANDEM_CACHE=/models/cache
USER 10001:10001
EXPOSE 8002
HEALTHCHECK --interval=5s --timeout=3s --start-period=600s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8002/readyz', timeout=2)"]
ENTRYPOINT ["tandem"]
CMD ["serve", "ranking", "--host", "0.0.0.0", "--registry", "/models", "--device", "cuda", "--engine", "vllm"]
