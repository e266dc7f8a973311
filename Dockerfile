# docker build -t hpa_jax .                       CPU
# docker build -t hpa_jax --build-arg EXTRA=gpu . NVIDIA GPUs (run with --gpus all)
# docker run --rm -v "$PWD:/work" hpa_jax run --config=demo --workdir=runs/demo
FROM python:3.12-slim
ARG EXTRA=cpu
COPY . /source
WORKDIR /source
RUN pip install --no-cache-dir ".[${EXTRA},cluster,formats,tables,serve]"
RUN hpa-jax --help
WORKDIR /work
ENTRYPOINT ["hpa-jax"]
