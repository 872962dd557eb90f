# The two commands that matter: `make demo` and `make test`. Both install what is missing through deploy/setup.sh.
.PHONY: demo test lint check-cuda dist-cuda bench bench-video bench-peers asan setup build install chart sbom

SHELL := /bin/bash
# rustup installs here; a shell that was opened before the installation does not know it yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)

setup:
	@deploy/setup.sh

## Builds the program as it is shipped, in release mode.
build: setup
	@deploy/phase.sh "build" cargo build --release --locked --bin frameshift

## Builds in release mode and puts `frameshift` into cargo's folder of programs, ~/.cargo/bin.
install: setup
	@deploy/phase.sh "install" cargo install --path . --locked

## Starts the server and runs the main job on CPU: upload, fine-tune, hot-swap, classify. Writes demo/report.html.
demo: build
	@deploy/phase.sh "demo" "$${CARGO_TARGET_DIR:-target}/release/frameshift" demo

## Format, lints, tests, documentation tests; licences and the API's lint when their tools are there.
test:
	@deploy/setup.sh --tests
	@deploy/test.sh

lint: setup
	@deploy/test.sh lint

## The CUDA path without a GPU: clippy with the feature, kernels where nvcc is (`deploy/setup.sh --cuda` brings it), tests on the emulated device.
check-cuda: setup
	@deploy/check-cuda.sh

## A folder below 40 MiB that checks and measures the CUDA path on a machine with a GPU: dist/cuda/check.sh. Needs nvcc (`deploy/setup.sh --cuda`).
dist-cuda: setup
	@deploy/dist-cuda.sh

## Video decoding against PyAV, decord and torchcodec, interleaved; writes benches/RESULTS.md. The peers live outside the project.
bench-video: setup
	@deploy/bench-video.sh

## Criterion benchmarks of the model and the video path.
bench: setup
	@cargo bench --locked

## Our model against PyTorch, ONNX Runtime and OpenVINO on this machine; QUICK=1 for the six rows that matter most. See benches/RESULTS.md.
bench-peers: setup
	@benches/compute/run.sh

## The kernel tests under the address sanitizer.
asan: setup
	@RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test --locked --lib -p frameshift-model --target "$$(rustc -vV | sed -n 's/^host: //p')" \
		--target-dir "$${CARGO_TARGET_DIR:-target}/asan" ops::

## Writes the software bill of materials of the program, target/frameshift.cdx.json (CycloneDX); brings cargo-cyclonedx.
sbom: setup
	@deploy/sbom.sh

## Renders the Helm chart for every file of deploy/chart/ci and validates the objects, rules and dashboard; UPDATE=1 accepts new renders.
chart:
	@deploy/chart.sh $(if $(UPDATE),--update)
