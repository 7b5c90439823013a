"""Time to accuracy over a slow link, simulated: 4,096 neurons on Fashion-MNIST, IST and baselines.

    ist-jax run --config experiments/ist/slow_link.py --data.dir DIR --workdir runs/slow_link

DIR holds the four idx files. Records have `simulated_seconds`: of training, as if every worker had
its own machine like this one, and of every synchronisation over 1 Gbit/s. --model.hidden 4096 4096
adds a hidden layer. communication/README.md has the table, and says what was tuned.
"""

from ist_jax.cli.config import (
    Config,
    DataConfig,
    LinkConfig,
    ModelConfig,
    OptimizerConfig,
    replace,
)

TUNED = {
    "ist": dict(local_steps=60, epochs=4.0),
    "local_sgd": dict(local_steps=40),
    "data_parallel": dict(optimizer=dict(learning_rate=0.03)),
}


def get_config(method="ist") -> Config:
    config = Config(
        method=method,
        data=DataConfig(name="idx"),
        model=ModelConfig(hidden=(4096,)),
        link=LinkConfig(bandwidth="1Gbps", latency="1ms"),
        num_subnets=4,
        batch_size=128,
        local_steps=20,
        epochs=3.0,
        eval_every=1,
        checkpoint_every=0,
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.1),
    )
    return replace(config, **TUNED.get(method, {}))
