"""Writes a small llama model of random weights for llama.cpp: tiny_gguf.py OUT.

What it says is noise; what it costs is real: six layers of 384 make some five answers of 60 tokens a second with
eight sequences on one thread.
"""

import sys

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, CONTEXT = 6, 384, 4, 8192
# Token types of the format.
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
WORDS = "the of and to in a is that it was for on as with be he water level".split()
CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}assistant: "
)


def vocabulary():
    """Tokens with their scores and types: control tokens, all bytes, some words, printable characters."""
    tokens = [(b"<unk>", 0.0, UNKNOWN), (b"<s>", 0.0, CONTROL), (b"</s>", 0.0, CONTROL)]
    tokens += [(b"<0x%02X>" % byte, 0.0, BYTE) for byte in range(256)]
    # The format writes a blank as U+2581.
    tokens += [(f"\u2581{word}".encode(), -1.0, NORMAL) for word in WORDS]
    tokens += [(chr(code).replace(" ", "\u2581").encode(), -2.0, NORMAL) for code in range(32, 127)]
    return tokens


def main(path):
    tokens = vocabulary()
    special = sum(kind != NORMAL for _, _, kind in tokens)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([kind for _, _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT)

    random = np.random.default_rng(1)

    def weights(*shape):
        return (0.05 * random.standard_normal(shape)).astype(np.float32)

    ones = np.ones(WIDTH, np.float32)
    output = weights(len(tokens), WIDTH)
    # Bytes and control tokens are hardly ever drawn: half a character would be no content.
    output[:special] *= 0.01
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(WIDTH, WIDTH))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(2 * WIDTH, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(WIDTH, 2 * WIDTH))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(sys.argv[1])
