"""A Transformer of 796,000 parameters on the characters of Tiny Shakespeare, minutes on a CPU.

    ist-jax run --config experiments/lm/tiny_shakespeare.py --data.dir tiny_shakespeare.txt \
        --workdir runs/shakespeare

The file has 1,115,394 characters (karpathy/char-rnn, data/tinyshakespeare/input.txt). Its first
90 % train, the next 5 % validate and the last 5 % test. All workers together see 24,000 windows of
128 characters. Ways to split the model: --decomposition neurons (of every MLP; the default), heads,
neurons_heads or layers. Other methods: --method local_sgd, diloco, ensemble or single.

`ist-jax export --workdir runs/shakespeare --out model` exports the model, and this prints text that
it generates:

    import jax
    from ist_jax import export
    from ist_jax.data.text import decode, encode
    from ist_jax.models import generate

    exported = export.read("model")
    vocabulary = exported.about["data"]["spec"]["vocabulary"]
    prompt = encode("ROMEO:", vocabulary)[None]
    tokens = generate(exported.model, exported.params, prompt, 500, jax.random.key(0))
    print(decode(tokens[0], vocabulary))
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(name="text", context=128, validation_fraction=0.05),
        model=ModelConfig(name="transformer", width=128, heads=8, activation="gelu", norm="rms"),
        num_subnets=2,
        local_steps=10,
        batch_size=16,
        epochs=3.06,  # 1,500 x 16 windows
        eval_every=15,
        eval_batch_size=64,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=0.004, weight_decay=0.01, schedule="cosine", warmup=0.05
        ),
    )
