"""Text and streams of tokens: what is read, which windows there are, and what is refused."""

import chex
import jax
import numpy as np
import pytest
from bigrams import CONTEXT, TEXT, loaded, phases, text_file
from laws import check_law_10

from ist_jax.data import DataError, TokenOptions, make_token_dataset
from ist_jax.data.splits import shared
from ist_jax.data.text import decode, encode
from ist_jax.data.tokens import RawTokens
from ist_jax.tasks import next_token
from ist_jax.training.loop import LoopConfig, run


def windows(dataset, part):
    """[N, context + 1]: the tokens of every window of a split."""
    arrays = dataset.arrays(part)
    batch = next_token(CONTEXT).batch(arrays, np.arange(len(arrays["start"])), None)
    return np.concatenate([batch["x"], batch["y"][:, -1:]], axis=1)


def test_characters_are_numbered_and_read_back(tmp_path):
    dataset = loaded(text_file(tmp_path))
    assert dataset.vocabulary == "".join(sorted(set(TEXT))) and dataset.bytes_per_token == 1
    assert dataset.spec.example == jax.ShapeDtypeStruct((1, CONTEXT), np.int32)
    first = windows(dataset, "train")[0]
    assert decode(first, dataset.vocabulary) == TEXT[: CONTEXT + 1]
    np.testing.assert_array_equal(encode(TEXT[: CONTEXT + 1], dataset.vocabulary), first)
    with pytest.raises(ValueError, match=r"but not \['#'\]"):
        encode("#", dataset.vocabulary)


def test_a_token_may_be_a_byte_or_have_several(tmp_path):
    path = text_file(tmp_path, "äöü€" * 50)
    characters, as_bytes = loaded(path), loaded(path, vocabulary="bytes")
    assert (characters.num_classes, characters.bytes_per_token) == (4, 9 / 4)
    assert (as_bytes.num_classes, as_bytes.bytes_per_token, as_bytes.vocabulary) == (256, 1, "")
    assert decode(windows(as_bytes, "train")[0], "") == "äöü€"
    np.testing.assert_array_equal(encode("ä", ""), [0xC3, 0xA4])


def test_splits_are_consecutive_and_no_window_crosses_their_borders(tmp_path):
    """Every window lies in the text of its split, and predicts the tokens that no other does."""
    dataset = loaded(text_file(tmp_path))
    held_out = round(0.2 * len(TEXT))
    ends = (0, len(TEXT) - 2 * held_out, len(TEXT) - held_out, len(TEXT))
    for part, begin, end in zip(("train", "validation", "test"), ends, ends[1:]):
        shown = windows(dataset, part)
        assert len(shown) == (end - begin - 1) // CONTEXT
        text = decode(np.concatenate([shown[0], *shown[1:, 1:]]), dataset.vocabulary)
        assert text == TEXT[begin : begin + len(text)] and end - begin - len(text) < CONTEXT


def test_a_folder_is_its_files_in_order(tmp_path):
    text_file(tmp_path, TEXT[700:], "b.txt")
    text_file(tmp_path, TEXT[:700], "a.txt")
    text_file(tmp_path, "not text", "readme.md")
    together = loaded(str(tmp_path))
    (tmp_path / "one").mkdir()
    assert together.fingerprint == loaded(text_file(tmp_path / "one")).fingerprint
    as_bytes = loaded(str(tmp_path), vocabulary="bytes")
    assert decode(windows(as_bytes, "train")[0], "") == TEXT[: CONTEXT + 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_a_file_of_tokens_is_mapped(tmp_path, dtype):
    tokens = (np.arange(500) % 200).astype(dtype)
    np.save(tmp_path / "tokens.npy", tokens)
    tokens.tofile(tmp_path / "tokens.bin")
    as_npy = loaded(str(tmp_path / "tokens.npy"), "tokens")
    as_bin = loaded(str(tmp_path / "tokens.bin"), "tokens", dataset=np.dtype(dtype).name)
    assert as_npy.fingerprint == as_bin.fingerprint and as_npy.num_classes == 200
    assert as_npy.bytes_per_token == 0, "nobody knows"
    np.testing.assert_array_equal(windows(as_npy, "validation")[0], np.arange(300, 309) % 200)
    stored = as_npy.arrays("train")["tokens"].dtype
    assert stored == (np.int32 if dtype == np.int64 else dtype)


def numbers(count=400):
    return RawTokens((np.arange(count) ** 2 % 23).astype(np.uint16), 23, bytes_per_token=2.0)


def number_dataset(**options):
    return make_token_dataset(
        numbers(),
        "numbers",
        source="numbers",
        options=TokenOptions(CONTEXT),
        validation_fraction=0.2,
        shards=shared,
        **options,
    )


def test_a_streamed_text_has_the_windows_of_one_on_the_devices():
    """Also the last ones, and shifted ones."""
    task, streamed, placed = next_token(CONTEXT), number_dataset(largest=0), number_dataset()
    index = np.arange(placed.num_train)
    rows = streamed.train.read(index)
    for key in (None, jax.random.key(0)):
        batches = [task.batch(arrays, index, key) for arrays in (rows, placed.arrays("train"))]
        chex.assert_trees_all_equal(*batches)


@pytest.mark.slow
def test_a_streamed_text_trains_as_one_on_the_devices_does_bit_for_bit():
    """Shifted windows, too, and the metrics of all splits."""
    task, config = next_token(CONTEXT, bytes_per_token=2.0), LoopConfig(eval_batch_size=3)
    results = [
        run(phases(data, task), task, data, config)
        for data in (number_dataset(), number_dataset(largest=0))
    ]
    chex.assert_trees_all_equal(results[0].params, results[1].params)
    last, streamed = (result.summary["last"] for result in results)
    assert last["test"] == pytest.approx(streamed["test"], rel=1e-6)
    assert set(last["test"]) == {"loss", "accuracy", "perplexity", "bits_per_byte"}


@pytest.mark.slow
def test_law_10_a_stopped_run_on_text_ends_as_an_unbroken_one(tmp_path):
    dataset, task = loaded(text_file(tmp_path)), next_token(CONTEXT)
    check_law_10(lambda: phases(dataset, task), task, dataset, tmp_path / "run", [2, 1])


WRONG = {
    "missing": (lambda folder: str(folder / "no"), "text", "", "is neither a file with text nor"),
    "no UTF-8": (
        lambda folder: (folder / "x.txt").write_bytes(b"a" * 100 + b"\xff") and str(folder),
        "text",
        "",
        "not UTF-8 at byte 100: convert it, or use data.vocabulary=bytes",
    ),
    "too short": (
        lambda folder: text_file(folder, "short text"),
        "text",
        "",
        "a window is data.context=8 tokens and one more, and the train split has 6 of 10",
    ),
    "another file": (lambda folder: text_file(folder), "tokens", "", ".npy or .bin"),
    "floats": (
        lambda folder: np.save(folder / "x.npy", np.ones(9)) or str(folder / "x.npy"),
        "tokens",
        "",
        r"tokens are integers \[T\], not float64\[9\]",
    ),
    "negative": (
        lambda folder: np.save(folder / "x.npy", np.arange(-3, 9)) or str(folder / "x.npy"),
        "tokens",
        "",
        "are from 0 to 2.*but these are -3 to 8",
    ),
    "pickled": (
        lambda folder: (
            np.save(folder / "x.npy", np.array([{}], object), allow_pickle=True)
            or str(folder / "x.npy")
        ),
        "tokens",
        "",
        "cannot be read as tokens",
    ),
    "dtype": (lambda folder: str(folder / "x.bin"), "tokens", "float32", "not 'float32'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_data_that_are_no_text_are_refused_in_one_line(case, tmp_path):
    make, name, dataset, says = WRONG[case]
    with pytest.raises(DataError, match=says) as error:
        loaded(make(tmp_path), name, dataset=dataset)
    assert "\n" not in str(error.value)


def test_text_has_no_classes_to_divide_among_workers(tmp_path):
    with pytest.raises(DataError, match="'dirichlet' divides classes .* are next_token: use"):
        loaded(text_file(tmp_path), split="dirichlet")


def test_tiny_shakespeare_is_read(real_data):
    dataset = loaded(str(real_data / "text" / "tiny_shakespeare.txt"))
    assert dataset.num_classes == 65 and dataset.num_train == (1_115_394 - 2 * 223_079 - 1) // 8
    assert decode(windows(dataset, "train")[0], dataset.vocabulary) == "First Cit"
