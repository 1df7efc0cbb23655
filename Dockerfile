# One file, two images: `tidegate`, the daemon, and `fleet`, the simulated vehicles.
#   docker build --target tidegate -t tidegate .
# The compiler is the one that the tests ran with.
ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-${DEBIAN} AS build
WORKDIR /src
COPY . .
# librdkafka, OpenSSL and zstd are built from source and linked in, which takes minutes: the caches keep them for the next
# build. Line tables are of no use without the sources; the symbols stay, so that a backtrace has names.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p tidegate -p fleet \
    && mkdir /out \
    && strip --strip-debug -o /out/tidegate target/release/tidegate \
    && strip --strip-debug -o /out/fleet target/release/fleet

FROM debian:${DEBIAN}-slim AS runtime
# The authorities' certificates for TLS to Kafka and Postgres; the build image has them, and nothing needs installing here.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Numbers, so that a cluster which refuses root can see that this isn't root.
USER 65532:65532
WORKDIR /tmp

FROM runtime AS fleet
COPY --from=build /out/fleet /usr/local/bin/fleet
ENTRYPOINT ["fleet"]

# The last stage is what `docker build` makes without a target.
FROM runtime AS tidegate
COPY --from=build /out/tidegate /usr/local/bin/tidegate
COPY --chmod=0555 deploy/healthcheck.sh /usr/local/bin/healthcheck
COPY config/tidegate.toml /usr/share/tidegate/tidegate.toml
EXPOSE 9464
# The process lives. An outage of Kafka or Postgres is no reason to restart it: that is /readyz.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["healthcheck", "/healthz"]
ENTRYPOINT ["tidegate"]
CMD ["run", "--config", "/etc/tidegate/tidegate.toml"]
