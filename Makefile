# The two commands that matter: `make demo` and `make test`. Both bring what is missing through deploy/setup.sh.
.PHONY: demo test lint bench bench-video setup build

SHELL := /bin/bash
# rustup installs here; a shell that was opened before the installation does not know it yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)

setup:
	@deploy/setup.sh

build: setup
	@deploy/phase.sh "build" cargo build --locked

## Starts the server and runs the main job on CPU: upload, fine-tune, hot-swap, classify. Writes demo/report.html.
demo: build
	@deploy/phase.sh "demo" target/debug/frameshift demo

## Format, lints, tests, documentation tests; licences and the API's lint when their tools are there.
test: setup
	@deploy/test.sh

lint: setup
	@deploy/test.sh lint

## Video decoding against PyAV, decord and torchcodec, interleaved; writes benches/RESULTS.md. The peers live outside the project.
bench-video: setup
	@deploy/bench-video.sh

## Criterion benchmarks of the model and the video path.
bench: setup
	@cargo bench --locked
