# blastscope's command line on the CPU, from this checkout:
#   docker build --tag blastscope .
#   docker run --rm --volume "$PWD/cells:/data:ro" blastscope classify /data
# With --read-only, give it a place for compiled engines: --tmpfs /home/user/.cache
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
COPY requirements/base.txt /tmp/base.txt
RUN pip install --no-cache-dir --only-binary :all: --no-deps --require-hashes --requirement /tmp/base.txt
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
RUN useradd --create-home --uid 1000 user
USER 1000
# shows at build time that cells are called
RUN blastscope demo --out /tmp/demo && rm -r /tmp/demo /home/user/.cache
ENTRYPOINT ["blastscope"]
CMD ["--help"]
