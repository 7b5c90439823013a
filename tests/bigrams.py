"""A tiny model of tokens without Flax, which compiles at once, and text to train it on."""

import jax
import optax

from ist_jax import data, decompose, ist
from ist_jax.core.placement import looped
from ist_jax.data import TokenOptions

CONTEXT = 8
TEXT = "the quick brown fox jumps over the lazy dog; how vexingly quick daft zebras jump! " * 20


class Bigrams:
    """Logits of the next token from the last one, by `width` features of it."""

    def __init__(self, vocabulary, width):
        self.vocabulary, self.width = vocabulary, width

    def init(self, key, example):
        shape, (first, second) = (self.vocabulary, self.width), jax.random.split(key)
        return {
            "read": jax.random.normal(first, shape),
            "write": jax.random.normal(second, shape[::-1]),
        }

    def apply(self, params, inputs, *, key=None, stats=None):
        return params["read"][inputs] @ params["write"]

    def measure(self, params, inputs):
        return {}


def text_file(folder, text=TEXT, name="text.txt"):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return str(folder / name)


def loaded(path, name="text", vocabulary="characters", **options):
    tokens = TokenOptions(CONTEXT, vocabulary)
    return data.load(name, path, tokens=tokens, validation_fraction=0.2, **options)


def split(spec, num_subnets=2):
    return decompose(
        (("read", (None, "unit")), ("write", ("unit", None))),
        {"unit": 4},
        num_subnets=num_subnets,
        full=Bigrams(spec.num_classes, 4),
        subnet=Bigrams(spec.num_classes, 4 // num_subnets),
        example=spec.example,
    )


def phases(dataset, task):
    """IST on two workers: five rounds of two steps of batches of four windows."""
    method = ist(split(dataset.spec), task, optax.sgd(0.5), batch_size=4, placement=looped())
    return [(method, 5 * 2 * 2 * 4, 2)]
