# canaryproxy in an image: `buildah bud -t canaryproxy .` or `docker build -t canaryproxy .`
# BASE: any Debian-like image with python3 >= 3.11 and its venv module. scripts/container-check builds, runs and tests the image.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY canaryproxy ./canaryproxy
# Dependencies come as wheels; on a platform without them a compiler has to be installed here, and stays out of the image.
RUN ["python3", "-m", "venv", "/opt/canaryproxy"]
RUN ["/opt/canaryproxy/bin/pip", "install", "--no-cache-dir", "--disable-pip-version-check", "."]
RUN ["/opt/canaryproxy/bin/python", "-m", "pip", "uninstall", "--yes", "pip", "setuptools"]

RUN ["install", "-d", "-m", "0750", "/state/canaryproxy"]

# Only copies from here on: a RUN would leave the build's mounts in the image.
FROM ${BASE}
COPY --from=build /opt/canaryproxy /opt/canaryproxy
COPY --from=build --chown=10001:10001 /state/ /var/lib/
ENV PATH=/opt/canaryproxy/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes' runAsNonRoot can check it. The configuration is mounted; the state is the volume.
USER 10001:10001
WORKDIR /var/lib/canaryproxy
VOLUME /var/lib/canaryproxy
EXPOSE 8080 9900
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/opt/canaryproxy/bin/canaryproxy", "health", "--config", "/etc/canaryproxy/canaryproxy.yaml"]
ENTRYPOINT ["/opt/canaryproxy/bin/canaryproxy"]
CMD ["run", "--config", "/etc/canaryproxy/canaryproxy.yaml"]
