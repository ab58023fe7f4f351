# One image a service, and one that runs everything:
#   docker build --target edge -t bursar-edge .        (enforcer, aggregator, admin likewise)
#   docker build --target all-in-one -t bursar . && docker run -p 8080:8080 -e ANTHROPIC_API_KEY -v bursar:/var/lib/bursar bursar
# A private package index and its CA are optional build secrets and never become part of an image: a pip.conf, which
# may name the CA as `cert = /run/secrets/ca.pem`:
#   docker build --secret id=pip,src=pip.conf --secret id=ca,src=ca.pem ...

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/bursar/bin:$PATH

# Packages are installed into a virtual environment, which is all that the images at the end take over.
FROM base AS common-build
WORKDIR /src
COPY constraints.txt ./
COPY libs/common libs/common
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    python -m venv /opt/bursar && pip install -c constraints.txt ./libs/common

FROM common-build AS edge-build
COPY services/edge-proxy services/edge-proxy
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    pip install -c constraints.txt ./services/edge-proxy

FROM common-build AS enforcer-build
COPY services/budget-enforcer services/budget-enforcer
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    pip install -c constraints.txt ./services/budget-enforcer

FROM common-build AS aggregator-build
COPY services/usage-aggregator services/usage-aggregator
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    pip install -c constraints.txt ./services/usage-aggregator

FROM common-build AS admin-build
COPY services/admin-api services/admin-api
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    pip install -c constraints.txt ./services/admin-api

FROM common-build AS all-in-one-build
COPY services services
COPY libs/bursar libs/bursar
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    pip install -c constraints.txt ./services/edge-proxy ./services/budget-enforcer "./services/usage-aggregator[embedded]" \
      ./services/admin-api "./libs/bursar[server]"

# What runs has a user of its own and one folder it may write to; a named volume put there inherits its owner.
FROM base AS runtime
RUN groupadd --system --gid 10001 bursar \
    && useradd --no-log-init --no-create-home --uid 10001 --gid bursar --home-dir /var/lib/bursar --shell /usr/sbin/nologin bursar \
    && install -d -o bursar -g bursar -m 0700 /var/lib/bursar
WORKDIR /var/lib/bursar
COPY LICENSE /usr/share/doc/bursar/LICENSE
USER 10001:10001

FROM runtime AS enforcer
COPY --from=enforcer-build /opt/bursar /opt/bursar
EXPOSE 8081
CMD ["python", "-m", "bursar_enforcer"]

FROM runtime AS aggregator
COPY --from=aggregator-build /opt/bursar /opt/bursar
EXPOSE 8082
CMD ["python", "-m", "bursar_aggregator"]

FROM runtime AS admin
COPY --from=admin-build /opt/bursar /opt/bursar
EXPOSE 8083
CMD ["python", "-m", "bursar_admin"]

FROM runtime AS edge
COPY --from=edge-build /opt/bursar /opt/bursar
EXPOSE 8080
CMD ["python", "-m", "bursar_edge"]

# The last stage is what `docker build .` makes.
FROM runtime AS all-in-one
COPY --from=all-in-one-build /opt/bursar /opt/bursar
EXPOSE 8080
VOLUME /var/lib/bursar
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "bursar_common.ready", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["bursar"]
CMD ["up", "--home", "/var/lib/bursar", "--bind", "0.0.0.0"]
