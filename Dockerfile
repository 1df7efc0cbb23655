# One file, two images: `tidegate`, the daemon, and `fleet`, the simulated vehicles.
#   docker build --target tidegate -t tidegate .
# The compiler version that the tests ran with.
ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-${DEBIAN} AS build
WORKDIR /src
COPY . .
# librdkafka, OpenSSL and zstd are built from source and linked in, which takes minutes: the caches keep them for the next
# build. Line tables are useless without the sources. The symbols are kept, so that a backtrace has names.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p tidegate -p fleet \
    && mkdir /out \
    && strip --strip-debug -o /out/tidegate target/release/tidegate \
    && strip --strip-debug -o /out/fleet target/release/fleet

FROM debian:${DEBIAN}-slim AS runtime
# CA certificates for TLS to Kafka and Postgres, copied from the build image, so that nothing needs installing here.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Numeric ids, so that a cluster that refuses root can see that this isn't root.
USER 65532:65532
WORKDIR /tmp

FROM runtime AS fleet
COPY --from=build /out/fleet /usr/local/bin/fleet
ENTRYPOINT ["fleet"]

# `docker build` without a target builds the last stage.
FROM runtime AS tidegate
COPY --from=build /out/tidegate /usr/local/bin/tidegate
COPY --chmod=0555 deploy/healthcheck.sh /usr/local/bin/healthcheck
COPY config/tidegate.toml /usr/share/tidegate/tidegate.toml
EXPOSE 9464
# Checks that the process is alive. An outage of Kafka or Postgres is no reason for a restart: /readyz reports it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["healthcheck", "/healthz"]
ENTRYPOINT ["tidegate"]
CMD ["run", "--config", "/etc/tidegate/tidegate.toml"]
