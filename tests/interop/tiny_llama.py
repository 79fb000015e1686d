"""Write a model folder for a random tiny Llama: a config and a byte-level tokenizer, no weights.

Not a model that says anything sensible: the server is started with `--load-format dummy` and draws its weights
at random, which is enough to see requests, queues, KV blocks and aborts. Runs inside the vLLM environment
(transformers and tokenizers are there); infermesh itself needs neither.
"""

from __future__ import annotations

import argparse
from pathlib import Path

# These live in the vLLM environment, where this runs, and not in ours, where it is checked.
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]
from transformers import LlamaConfig, PreTrainedTokenizerFast  # type: ignore[import-not-found]

VOCABULARY_LEN = 1024  # The byte alphabet plus a few hundred merges; the embedding has the same height.
HEADS = 4
HEAD_DIM = 32
CONTEXT_TOKENS_MAX = 2048

SENTENCE = "a router asks every node how long its queue is and sends request {number} to the fastest of them"
CHAT_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}<assistant>"


def write_tokenizer(folder: Path) -> None:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_LEN,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator((SENTENCE.format(number=number) for number in range(2000)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(folder))


def write_config(folder: Path) -> None:
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCABULARY_LEN,
        hidden_size=HEADS * HEAD_DIM,
        intermediate_size=2 * HEADS * HEAD_DIM,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=CONTEXT_TOKENS_MAX,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        torch_dtype="bfloat16",
    ).save_pretrained(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random tiny Llama (config and tokenizer) into a folder.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_config(folder)


if __name__ == "__main__":
    main()
