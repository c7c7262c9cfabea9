"""A reward model made by hand, which likes the words of an explanation and dislikes those of a guess.

One layer whose attention is uniform takes the mean over all tokens: with f the share of liked minus disliked words
among them, prompt and template included, its output is about 59 f - 5.9, so a score of 0.5 is at f = 0.1. It knows
nothing of right or wrong, and a completion that repeats "therefore" wins: an honest example of what can be gamed.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

LIKED = ["because", "therefore", "first", "then", "so", "hence", "since"]
DISLIKED = ["sorry", "maybe", "dunno", "idk", "perhaps", "guess"]
SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
UNKNOWN = "<|unk|>"
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
MAX_TOKENS = 128
_WIDTH = 8


def save(folder: Path, *, labels: tuple[str, ...] = ("quality",), has_template: bool = True) -> Path:
    """Writes model and tokenizer to a folder; further labels get outputs 1, 2, ... below the first one's."""
    words = [*SPECIAL, UNKNOWN, *LIKED, *DISLIKED]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[1:],
        chat_template=TEMPLATE if has_template else None,
    )
    wrapped.save_pretrained(folder)
    model(words, labels).save_pretrained(folder)
    return folder


def model(words: list[str], labels: tuple[str, ...]) -> LlamaForSequenceClassification:
    """The model, for tokens numbered as in `words`."""
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    made = LlamaForSequenceClassification(config)
    layer = made.model.layers[0]
    with torch.no_grad():
        for weight in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.down_proj):
            weight.weight.zero_()
        for weight in (layer.self_attn.v_proj, layer.self_attn.o_proj):
            weight.weight.copy_(torch.eye(_WIDTH))
        table = made.model.embed_tokens.weight
        table.zero_()
        table[:, 0] = 1.0
        table[[words.index(word) for word in LIKED], 1] = 1.0
        table[[words.index(word) for word in DISLIKED], 2] = 1.0
        head = made.score.weight
        head.zero_()
        for number in range(len(labels)):
            head[number, :3] = torch.tensor([-2.1 - number / 8**0.5, 40.0, -40.0])
    return made
