# The pipeline as an image: worker, migrations, topics. `gatewatch up` and its embedded broker and
# engine are for machines without containers and are not in here.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/gatewatch
COPY requirements.pipeline.lock /build/
# The part of requirements.lock that a worker needs, with the hash of every file that may be installed.
RUN /opt/gatewatch/bin/python -m pip install --require-hashes --only-binary :all: \
        --requirement /build/requirements.pipeline.lock

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 gatewatch \
    && useradd --uid 10001 --gid gatewatch --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gatewatch
COPY --from=build /opt/gatewatch /opt/gatewatch
WORKDIR /app
COPY gatewatch gatewatch
COPY signals signals
COPY streams streams
COPY sinks sinks
COPY traffic traffic
# What numba compiles is for the processor that it runs on: each container does it as it starts, in some
# seconds, and keeps it in memory.
ENV PATH=/opt/gatewatch/bin:$PATH \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["python", "-P", "-m", "gatewatch.cli"]
CMD ["--help"]
