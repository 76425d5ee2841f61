# Serves an export over HTTP, without PyTorch: docs/guide/deploy.md.
#   docker build -t quala .                                 ONNX Runtime
#   docker build -t quala --build-arg EXTRAS=[openvino] .   and OpenVINO
#   docker build -t quala-tracking --target tracking .      an MLflow server for PostgreSQL
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
RUN python -m venv /opt/quala \
    && /opt/quala/bin/pip install ".${EXTRAS}" -c constraints.txt \
    && /opt/quala/bin/python -m compileall -q /opt/quala

FROM python:${PYTHON}-slim AS tracking
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir mlflow psycopg2-binary -c /tmp/constraints.txt \
    && useradd --system --uid 10001 --create-home mlflow \
    && install -d -o mlflow /artifacts
USER 10001
EXPOSE 5000
ENTRYPOINT ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin quala
COPY --from=build /opt/quala /opt/quala
ENV PATH=/opt/quala/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["quala", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["minilm-squad"]
