# Two targets: docker build --target cpu --tag digits-serving:cpu . (or --target gpu).
# The image contains only serving and its interface: no training, no export, no pip.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS dependencies-cpu
COPY requirements/cpu.txt /build/requirements.txt
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --requirement /build/requirements.txt

FROM python:${PYTHON}-slim AS dependencies-gpu
COPY requirements/gpu.txt /build/requirements.txt
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --requirement /build/requirements.txt

FROM python:${PYTHON}-slim AS serving
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin digits
WORKDIR /app
COPY LICENSE /app/LICENSE
COPY protos /app/protos
COPY serving /app/serving
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DIGITS_HOST=0.0.0.0 \
    DIGITS_PORT=50051
USER 10001
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python", "-m", "serving", "health"]
# What follows the image's name replaces "serve": a command with its options, or only options, which are serve's.
ENTRYPOINT ["python", "-m", "serving"]
CMD ["serve"]
# The version is that of serving/__init__.py. The commit: docker build --build-arg REVISION="$(git rev-parse HEAD)" …
ARG REVISION=unknown
LABEL org.opencontainers.image.title="digits-serving" \
      org.opencontainers.image.description="A trained convolutional network, served over gRPC" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.4.0" \
      org.opencontainers.image.revision="${REVISION}"

FROM serving AS gpu
COPY --from=dependencies-gpu /opt/venv /opt/venv
ENV DIGITS_PROVIDER=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM serving AS cpu
COPY --from=dependencies-cpu /opt/venv /opt/venv
ENV DIGITS_PROVIDER=cpu
