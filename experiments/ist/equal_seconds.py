"""IST on Fashion-MNIST, two hidden layers of 1024, against baselines with the same time.

    ist-jax run --config experiments/ist/equal_seconds.py --data.dir DIR --workdir runs/equal

Methods train for the same seconds on one machine, not on the same samples: IST and the ensemble
make 10 passes, the others 4, 2 and 1 with --num-subnets 2, 4 and 8. For every S, each method has
the values that are best on validation data among nine; README.md beside this file has the tables
and the grids. Expect a test accuracy of 88 % after some seconds of training on 2 CPU cores.
"""

import fashion_mnist

from ist_jax.cli.config import Config, ConfigError, replace

PASSES = {2: 4.0, 4: 2.0, 8: 1.0}  # of the baselines
LOCAL_STEPS = {"ist": 200, "local_sgd": 20, "diloco": 20}  # the others: 100
# method -> S -> (batch per worker, learning rate of Adam); untuned methods use diloco's values
TUNED = {
    "ist": {2: (64, 0.02), 4: (64, 0.02), 8: (64, 0.005)},
    "ensemble": {2: (128, 0.001), 4: (64, 0.001), 8: (64, 0.003)},
    "single": {2: (128, 0.002), 4: (128, 0.001), 8: (128, 0.001)},
    "data_parallel": {2: (64, 0.002), 4: (64, 0.001), 8: (64, 0.005)},
    "local_sgd": {2: (64, 0.001), 4: (64, 0.001), 8: (64, 0.001)},
    "diloco": {2: (64, 0.002), 4: (64, 0.001), 8: (64, 0.002)},
}


def get_config(method="ist", num_subnets=4) -> Config:
    if num_subnets not in PASSES:
        raise ConfigError(f"num_subnets is one of 2, 4, 8 here, not {num_subnets}")
    batch_size, learning_rate = TUNED.get(method, TUNED["diloco"])[num_subnets]
    return replace(
        fashion_mnist.get_config(method),
        num_subnets=num_subnets,
        epochs=10.0 if method in ("ist", "ensemble") else PASSES[num_subnets],
        local_steps=LOCAL_STEPS.get(method, 100),
        batch_size=batch_size,
        optimizer=dict(learning_rate=learning_rate),
    )
