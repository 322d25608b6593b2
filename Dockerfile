# syntax=docker/dockerfile:1.7
# The worker: everything that runs a flow. Dependencies come first, so that a change of the code reuses their layer.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false

# git: a run records the commit it was made from. tini: signals reach the flow, and its children are reaped.
# Debian keeps only the newest build of a package, so a pinned one could not be installed for long.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home gptworks \
    && install -d -o gptworks -g gptworks /app /app/var

WORKDIR /app

# The CPU build of torch by default; docker compose build --build-arg TORCH_INDEX=… takes another.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/requirements.txt \
    && pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY . .
RUN pip install --no-cache-dir --no-deps -e .

# by number, so that an engine can tell that it is not root
USER 1000:1000
VOLUME /app/var
ENTRYPOINT ["tini", "-g", "--"]
CMD ["gptworks", "--help"]
