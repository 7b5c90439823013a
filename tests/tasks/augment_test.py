"""Augmentation on the device: what it does, and that it comes from the step's key alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import check_law_10

from ist_jax import LoopConfig, Phase, decompose, ist, run
from ist_jax.data import Raw, make_dataset
from ist_jax.data.splits import shared
from ist_jax.tasks import AUGMENTS, classification
from ist_jax.tasks.augment import augment_images

IMAGES = jnp.arange(1, 1 + 8 * 5 * 6 * 2, dtype=jnp.uint8).reshape(8, 5, 6, 2)


def windows(image, padding, flips):
    """Every image that one may become."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            cut = padded[top : top + image.shape[0], left : left + image.shape[1]]
            yield cut.tobytes()
            if flips:
                yield cut[:, ::-1].tobytes()


def test_a_resized_crop_is_a_part_of_the_image_of_random_size_and_place():
    ramp = jnp.broadcast_to(jnp.arange(64.0)[None, :, None, None], (200, 64, 48, 3))
    made = np.asarray(augment_images("resized_crop_flip", ramp, jax.random.key(0), 4, (16, 16)))
    assert made.shape == (200, 16, 16, 3)
    assert np.ptp(made, axis=2).max() < 1e-3, "a row is of one colour, as the image's are"
    rows = made[:, 1:-1, 0, 0]
    assert (np.diff(rows) > 0).all() and rows.min() >= 0 and rows.max() <= 63
    share = np.diff(rows).mean(axis=1) * 16 / 64  # of the height
    assert 0.2 < share.min() < 0.5 and 0.8 < share.max() < 1.01, (
        "from 0.08 of the area, at 3 : 4, to the whole"
    )
    assert np.std(rows[:, 7]) > 3, "at random places"


def test_a_resized_crop_of_the_full_image_is_the_image_flipped_or_not(monkeypatch):
    monkeypatch.setattr("ist_jax.tasks.augment._AREA", (1.0, 1.0))
    monkeypatch.setattr("ist_jax.tasks.augment._RATIO", (1.0, 1.0))
    made = np.asarray(augment_images("resized_crop_flip", IMAGES, jax.random.key(0), 4))
    kinds = {
        bool(np.allclose(cut, image, atol=1e-3)) for cut, image in zip(made, np.asarray(IMAGES))
    }
    mirrored = {
        bool(np.allclose(cut, image[:, ::-1], atol=1e-3))
        for cut, image in zip(made, np.asarray(IMAGES))
    }
    assert kinds == mirrored == {True, False}


@pytest.mark.parametrize("name", AUGMENTS)
def test_larger_images_are_cropped_to_the_size_of_a_batch(name):
    arrays = {"x": IMAGES, "y": jnp.zeros(8, jnp.int32)}
    task = classification(augment=name, padding=1, size=(3, 4))
    shown = task.batch(arrays, jnp.arange(8), None)["x"]
    np.testing.assert_array_equal(
        shown, np.asarray(IMAGES)[:, 1:4, 1:5].astype(np.float32), "without a key, their middle"
    )
    trained = task.batch(arrays, jnp.arange(8), jax.random.key(0))["x"]
    assert trained.shape == shown.shape and (name == "none") == np.array_equal(trained, shown)


@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_an_image_becomes_a_window_of_itself(name):
    count = {"crop": 25, "crop_flip": 50}[name]
    make = jax.jit(jax.vmap(lambda key: augment_images(name, IMAGES, key, 2)))
    made = np.asarray(make(jax.random.split(jax.random.key(0), 100)))
    assert made.dtype == np.uint8 and made.shape == (100, *IMAGES.shape)
    for i, image in enumerate(np.asarray(IMAGES)):
        possible = set(windows(image, 2, name == "crop_flip"))
        seen = {cut.tobytes() for cut in made[:, i]}
        assert seen <= possible and len(seen) > 0.7 * count, "and all of them come up"


def test_augmentation_depends_on_the_steps_key_alone():
    task, arrays, index_B = (
        classification(3.0, 2.0, augment="crop_flip", padding=1),
        {"x": IMAGES, "y": jnp.arange(8)},
        jnp.arange(4),
    )
    one, same, other = (
        task.batch(arrays, index_B, jax.random.key(seed))["x"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    plain = classification(3.0, 2.0).batch(arrays, index_B, jax.random.key(0))["x"]
    np.testing.assert_array_equal(
        task.batch(arrays, index_B, None)["x"], plain
    )  # evaluation has no key
    np.testing.assert_array_equal(plain, (np.asarray(IMAGES[:4], np.float32) - 3) / 2)


def test_unknown_names_and_inputs_that_are_no_images_raise_an_error():
    with pytest.raises(
        ValueError, match="augment is one of none, crop, crop_flip, resized_crop_flip, not 'flip'"
    ):
        augment_images("flip", IMAGES, jax.random.key(0), 1)
    with pytest.raises(ValueError, match=r"is of images, .* not shape \(8, 60\)"):
        augment_images("crop", IMAGES.reshape(8, 60), jax.random.key(0), 1)
    assert augment_images(AUGMENTS[0], IMAGES, jax.random.key(0), 1) is IMAGES


class Flat(nn.Module):
    """Some model of images; convolutions are not tested here."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="dense")(x.reshape(x.shape[0], -1))


def image_dataset(same):
    """Images, all the same or not."""
    rng = np.random.default_rng(0)
    x = (
        rng.normal(size=(60, 5, 5, 1))
        if not same
        else np.broadcast_to(rng.normal(size=(1, 5, 5, 1)), (60, 5, 5, 1))
    )
    raw = Raw(x.astype(np.float32), np.arange(60) % 2, x[:10].astype(np.float32), np.arange(10) % 2)
    return make_dataset(raw, "images", source="images", validation_fraction=0.2, shards=shared)


def local_sgd(task, rate=0.1):
    decomposition = decompose(
        [(".*", None)],
        {},
        num_subnets=2,
        full=Flat(),
        subnet=Flat(),
        example=image_dataset(True).example,
    )
    return ist(decomposition, task, optax.sgd(rate), batch_size=4)


def test_workers_and_steps_augment_differently():
    """With equal images and labels and a rate of 0, only augmentation makes losses differ."""
    data, losses = image_dataset(True), {}
    for name in ("none", "crop"):
        method = local_sgd(classification(augment=name, padding=2), rate=0.0)
        view = next(data.views(jax.random.key(0), 2, method.sharding, [range(1)]))
        arrays = {"x": view.arrays["x"], "y": jnp.zeros_like(view.arrays["y"])}
        view, state = view._replace(arrays=arrays), method.fresh(jax.random.key(0))
        losses[name] = np.asarray(
            method.round(state, view, jax.random.key(1), jnp.ones(2), steps=2)[1]["loss_SxJ"]
        )
    assert (
        len(set(losses["none"].ravel().tolist())) == 1
        and len(set(losses["crop"].ravel().tolist())) == 4
    )


@pytest.mark.slow
def test_law_10_augmentation_is_exact_under_resume(tmp_path):
    """A run that stops after two rounds and is resumed draws the crops of the unbroken run."""
    task, data = classification(augment="crop_flip", padding=2), image_dataset(False)
    made = lambda task: [Phase(local_sgd(task), 6 * 3 * 8, 3)]
    cropped = check_law_10(lambda: made(task), task, data, tmp_path, [2])
    plain = run(made(classification()), classification(), data, LoopConfig(eval_every=0)).params
    assert (plain["dense"]["kernel"] != cropped["dense"]["kernel"]).any()
