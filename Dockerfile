# One static program and a folder for its state: no shell, no library, no package to keep up to date.
#
#   docker build -t vizard .
#   docker run -d --name vizard -p 443:443 --read-only -v vizard:/state vizard
#   docker exec vizard /vizard link --host proxy.example.com
#
# Settings are best given as environment variables (VIZARD_DOMAIN, VIZARD_COVER, VIZARD_LISTEN, VIZARD_SECRET,
# VIZARD_SECRET_FILE, VIZARD_LOG, VIZARD_LINK_HOST) or in a file that VIZARD_CONFIG names: the health check sees those, but not the flags of `run`.

# Any image with cargo, a C compiler and the static parts of glibc will do.
ARG BUILDER=rust:1-bookworm

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# Only a named target keeps the flags away from procedural macros, which cannot be static. The machine's own triple is
# right on x86-64 and on 64-bit ARM. Cache mounts are left out because the builder of Debian 12's Docker knows none.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin vizard --target "$target" \
    && install -D "target/$target/release/vizard" /image/vizard \
    && mkdir /image/state

FROM scratch
LABEL org.opencontainers.image.title="vizard" \
      org.opencontainers.image.description="A Telegram proxy that nobody can tell from a web site" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /image/vizard /vizard
# A new volume takes its owner from the folder that it covers. The user is a number because there is no /etc/passwd.
COPY --from=build --chown=65532:65532 /image/state /state
USER 65532:65532
# Ports are published by their number, so another one instead of 443 would be no help: the container ends and says why.
# This goes before `listen` in a file, unless it is set to nothing.
ENV VIZARD_STATE_DIR=/state VIZARD_LISTEN=[::]:443
VOLUME /state
EXPOSE 443
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/vizard", "health"]
ENTRYPOINT ["/vizard"]
CMD ["run"]
