"""The handwritten digits that ship inside scikit-learn: 1,797 images of 8 x 8, no download.

They are the test part of Alpaydin and Kaynak's Optical Recognition of Handwritten Digits (UCI),
which has no split. The test set here is a stratified fifth, always the same.
"""

import numpy as np

from ist_jax.data.raw import DataError, Raw


def load(directory: str, dataset: str) -> Raw:
    """The digits as vectors of 64 (`dataset` '') or images of 8 x 8 x 1 (`dataset` 'images').

    `directory` is not used.

    Raises:
      DataError: another `dataset`.
    """
    del directory
    if dataset not in ("", "images"):
        raise DataError(
            f"data.dataset of digits is '' (vectors of 64) or 'images' (8 x 8 x 1), not {dataset!r}"
        )
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1) if dataset else x
    parts = train_test_split(x.astype(np.float32), y, test_size=0.2, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = map(np.asarray, parts)
    return Raw(x_train, y_train, x_test, y_test)
