# The everyday commands. `make test` is what CI runs; each target installs what it needs, once (scripts/need).
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test balancers fmt lint unit client fleet queue-workers queue-load queue-load-short queue-figures chaos chaos-short page smoke smoke-queue smoke-short load load-short soak experiment monitoring kubernetes kubernetes-node first-steps k6 bench bench-proxy messages-cost memory instructions release-pgo observe-cost overload conversations failover heartbeats redis-away fuzz deny demo llama-cpp image image-short image-targets compose packages release-dry-run

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the gateway, a simulated worker and the admin page, in one process
	cargo run --release --locked -- demo

PARTS := lint unit client fleet page queue-workers queue-load-short chaos-short smoke-short load-short monitoring

# One after the other, cheapest first, whatever -j says. One that fails does not keep the others from being seen.
test: ## everything that must pass: formatting, lints, docs, tests, the real OpenAI and Anthropic clients, a FastAPI worker, the page in a browser, the queue under fire, short runs of k6
	@failed=; \
	for part in $(PARTS); do $(MAKE) --no-print-directory "$$part" || failed+=" $$part"; done; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed" >&2; exit 1; fi

fmt: ## formats the sources
	cargo fmt --all

lint: ## formatting, clippy, the docs and the shell scripts, warnings denied
	cargo fmt --all --check
	scripts/need shellcheck
	.tools/bin/shellcheck -x -P SCRIPTDIR .ci/run deploy/compose/{prepare,settings.sh} deploy/packages/*.sh tests/packages.sh $$(grep -lE '^#!.*bash$$|^# shellcheck shell' scripts/*)
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --quiet

unit: ## the tests of all crates, some of them on a real Redis
	scripts/need redis curl
	cargo test --locked --workspace --quiet

client: ## the openai and anthropic packages, for Python and Node, through a gateway
	scripts/real-clients --debug

fleet: ## the FastAPI example, found through Redis
	scripts/fastapi-worker

page: ## the live page in Chromium; SCREENSHOTS=docs/page keeps pictures of it
	scripts/page --debug

queue-workers: ## both workers put through the queue's protocol
	scripts/queue-workers

queue-load: ## a queue under load: two builds without a setting, a rolling update, 200 conversations of which a worker is killed; 4 minutes
	scripts/queue-load

queue-load-short:
	SHORT=1 scripts/queue-load --debug

queue-figures: ## what a queue costs beside HTTP: first tokens, commands to Redis, CPU of 1000 streams; some 2 minutes
	scripts/queue-figures

chaos: ## gateways, workers and Redis killed and paused for 10 minutes while jobs go through them
	scripts/chaos

chaos-short:
	DURATION=40 scripts/chaos --debug

smoke-short:
	VUS=100 DURATION=10s scripts/smoke --debug

smoke: ## 1000 virtual users of k6 before one worker of 64 slots, for 30 s
	scripts/smoke

smoke-queue: ## the same crowd before a worker that takes from a queue
	scripts/smoke --queue
load: ## the load suite of k6: steady, ramp, spike, breakpoint, fairness, hangup, session; some 8 minutes
	scripts/k6

load-short:
	SHORT=1 scripts/k6 --debug
	SHORT=1 API=messages CAPACITY=30 scripts/k6 --debug steady

soak: ## just at capacity with waves and people who leave, for 15 minutes (SOAK_SECONDS=…)
	scripts/k6 soak

experiment: ## the worker alone and behind the gateway, in turns, as report/index.html; some 20 minutes (SHORT=1: 3)
	scripts/experiment

monitoring: ## alerts, rules, dashboard and compose.yaml by their own tools, then a real Prometheus and real trouble
	scripts/monitoring --debug

image: ## the container image by its Dockerfile, run as in production, with its size; half a minute, as root
	scripts/image

image-targets: ## the image for amd64 and arm64, with glibc and static, cross-compiled and run by an emulator; as root
	scripts/image-targets

image-short:
	scripts/image --debug

compose: ## deploy/compose started for real, with stand-ins for images: a request, a switch of colours, an alert; four minutes, as root
	scripts/compose

packages: ## deb and rpm into report/packages, tried under a real systemd: install, start, reload, upgrade, remove; two minutes, as root
	scripts/packages

release-dry-run: ## tarball, deb, rpm, list of components, checksums and a signature into report/release, all verified; a minute
	scripts/release-dry-run

balancers: ## nginx, HAProxy, Envoy, Traefik and Caddy before two gateways, of which one drains under load; two minutes
	scripts/balancers

kubernetes: ## the Helm chart and discovery before a real Kubernetes API server; 3 minutes, the first time some 10 more
	scripts/kubernetes --debug

kubernetes-node: ## the chart on two real nodes, under load: rolls, drains, scales, kills, switches of colours; as root, some 12 minutes
	scripts/kubernetes-node

first-steps: ## the ten commands of "Getting started", as they stand there, with what each takes; a minute
	scripts/first-steps --debug

k6: ## builds k6 with the event-stream module into .tools/bin
	scripts/need k6

bench: ## all benchmarks
	scripts/need redis
	cargo bench --locked -p traffic-dam

messages-cost: ## CPU of a message beside that of a chat, at most 1.1 times as much; a minute (COUNT=1: instructions)
	scripts/messages-cost

bench-proxy: ## CPU of a request and of an event beside nginx and HAProxy, and what they allocate; some 8 minutes
	scripts/bench-proxy
	cargo test --quiet --locked --test allocations -- --nocapture

instructions: ## the instructions of a small request and of an event, by function; beside other load too
	scripts/instructions
	scripts/instructions --stream

release-pgo: ## a build with the profile of what is shipped, guided by a profile of the benchmark's load; some 15 minutes
	scripts/release-pgo

memory: ## what an idle connection, an open stream and a million callers take, beside nginx and HAProxy; some 5 minutes
	scripts/memory

observe-cost: ## what logs, the page with a viewer and metrics cost; some 3 minutes
	scripts/observe-cost

heartbeats: ## what 1000 heartbeats a second of 1000 workers cost the gateway; a minute
	scripts/heartbeats

redis-away: ## Redis killed, and then paused, for 30 s under load; two and a half minutes
	scripts/redis-away

failover: ## six workers of which one dies or hangs, and 1, 2, 4 workers, with figures; some 5 minutes
	ARMS="stream stream-untold" PARTS="failover scale" scripts/overload

llama-cpp: ## a real llama.cpp behind agent and gateway, asked by the openai package at three times its capacity; some 2 minutes
	scripts/llama-cpp

overload: ## goodput at 0.8 to 10 times a worker's capacity, with and without the gateway; some 35 minutes; ENGINE=llama.cpp or vllm: before a real engine
	scripts/overload

conversations: ## conversations before four workers with prefix caches: prefix, two choices, sessions, sglang-router; some 20 minutes (SHORT=1: 1); ENGINE=llama.cpp: a real engine
	scripts/conversations

fuzz: ## hostile bytes for the parsers of JSON, event streams, framing, heartbeats and settings, a minute each; FUZZ_SECONDS=…
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test --locked --workspace --quiet --lib fuzzed_ -- --ignored --nocapture --test-threads 1

deny: ## licences, bans and sources of all dependencies; CHECKS=advisories asks the RustSec database
	scripts/need cargo-deny
	PATH="$$PWD/.tools/bin:$$PATH" cargo deny --log-level error check $(or $(CHECKS),bans licenses sources)
