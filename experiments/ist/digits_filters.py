"""IST on handwritten digits as images: a residual network of two stages of two blocks.

    ist-jax run --config experiments/ist/digits_filters.py --workdir runs/digits_filters

The filters inside all blocks but each stage's first are partitioned (LoFT's rule). The other
methods: --method local_sgd, ensemble or single. README.md beside this file has the table.
"""

from ist_jax.cli.config import Config, DataConfig, ModelConfig, OptimizerConfig, replace

TUNED = {
    "single": dict(optimizer=dict(learning_rate=0.03)),
    "ensemble": dict(optimizer=dict(learning_rate=0.03)),
}


def get_config(method="ist") -> Config:
    config = Config(
        method=method,
        data=DataConfig(name="digits", dataset="images", augment="crop", crop_padding=1),
        model=ModelConfig(name="resnet", stage_sizes=(2, 2), width=16, block="post"),
        decomposition="filters",
        num_subnets=2,
        batch_size=32,
        local_steps=10,
        epochs=20.0,
        eval_every=6,
        time_syncs=False,  # saves compiling a program for it
        optimizer=OptimizerConfig(
            learning_rate=0.1, momentum=0.9, weight_decay=0.0005, schedule="cosine", warmup=0.1
        ),
    )
    return replace(config, **TUNED.get(method, {}))
