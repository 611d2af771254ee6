"""Writes a small Llama checkpoint of random weights for vLLM: tiny_hf.py FOLDER.

What it says is noise of printable ASCII (half a character would be no content); what it costs is real: ten layers of
512 make some five answers of 60 tokens a second with eight sequences on one thread.
"""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LAYERS, WIDTH, HEADS, CONTEXT = 10, 512, 8, 8192
SPECIAL = ["<pad>", "<s>", "</s>"]
CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer():
    """Bytes as tokens, as the byte-level alphabet writes them."""
    vocabulary = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={token: place for place, token in enumerate(vocabulary)}, merges=[])
    bytewise = Tokenizer(model)
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    special = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=bytewise, **special)
    fast.chat_template = CHAT
    return fast, vocabulary


def is_printable(token):
    # The alphabet writes printable ASCII as itself, and a blank as U+0120.
    return token == "\u0120" or (len(token) == 1 and 33 <= ord(token) < 127)


def main(folder):
    fast, vocabulary = tokenizer()
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=(len(vocabulary) + 63) // 64 * 64,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        # Channel 0 is the same positive number everywhere: no layer writes it, and every embedding has it. The output
        # layer reads it to forbid tokens.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0].zero_()
            layer.mlp.down_proj.weight[0].zero_()
        model.model.embed_tokens.weight[:, 0] = 2.0
        output = model.lm_head.weight
        # Random weights would choose among all tokens almost alike; spread them.
        output *= 3
        output[:, 0] = -200.0
        for place, token in enumerate(vocabulary):
            if is_printable(token):
                output[place, 0] = 0.0
    model.save_pretrained(folder)


main(sys.argv[1])
