# syntax=docker/dockerfile:1
#   docker build .                 the server for CPUs
#   docker build --target cuda .   the server that also computes on NVIDIA GPUs, with libcublasLt; the driver comes from the host
# The builder and the final image are of one Debian release: FFmpeg's libraries come from it and must be the same.
ARG DEBIAN=trixie

FROM rust:1-${DEBIAN} AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev pkg-config \
        libavcodec-dev libavformat-dev libavutil-dev libswscale-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The dependencies, and the crates of the model and the video path, are a layer of their own: a change below src builds none of them again.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY crates crates
COPY assets assets
RUN mkdir -p src tests/it benches \
    && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && echo 'fn main() {}' > tests/it/main.rs \
    && for bench in $(sed -n '/^\[\[bench\]\]/,/^$/s/^name = "\(.*\)"/\1/p' Cargo.toml); do echo 'fn main() {}' > benches/$bench.rs; done \
    && cargo build --release --locked \
    && rm -rf src tests
COPY src src
COPY tests/it/main.rs tests/it/main.rs
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin frameshift

# nvcc for the kernels, and the one library of CUDA that the program loads, both from PyPI.
FROM builder AS builder-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
COPY deploy/setup.sh deploy/setup.sh
RUN deploy/setup.sh --cuda
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --target /opt/cublas nvidia-cublas==13.1.0.3
RUN NVCC=/root/.cache/frameshift-cuda/nvidia/cu13/bin/nvcc FRAMESHIFT_REQUIRE_NVCC=1 cargo build --release --locked --features cuda --bin frameshift

FROM debian:${DEBIAN}-slim AS base
# The codec libraries and their dependencies; `ldd` must find all of the binary's libraries here.
RUN apt-get update \
    && ffmpeg=$(apt-cache depends --important libavcodec-dev libavformat-dev libswscale-dev \
        | sed -n 's/.*Depends: \(libavcodec[0-9]*\|libavformat[0-9]*\|libswscale[0-9]*\|libavutil[0-9]*\)$/\1/p' | sort -u) \
    && apt-get install -y --no-install-recommends $ffmpeg \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --home-dir /var/lib/frameshift --create-home --shell /usr/sbin/nologin frameshift
WORKDIR /var/lib/frameshift
ENV FRAMESHIFT_DATA_DIR=/var/lib/frameshift/data
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["frameshift", "health"]
# Another address than loopback needs the explicit consent to serve without authentication.
ENTRYPOINT ["frameshift"]
CMD ["serve"]

FROM base AS cuda
COPY --from=builder-cuda /opt/cublas/nvidia/cu13/lib/libcublasLt.so.13 /usr/local/lib/
COPY --from=builder-cuda /src/target/release/frameshift /usr/local/bin/frameshift
RUN ldconfig && ! ldd /usr/local/bin/frameshift | grep 'not found'
# The container runtime of NVIDIA brings the driver's compute libraries.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532

FROM base AS cpu
COPY --from=builder /src/target/release/frameshift /usr/local/bin/frameshift
RUN ! ldd /usr/local/bin/frameshift | grep 'not found'
USER 65532
