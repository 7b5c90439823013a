"""A prepared TFDS builder of images, written as TFDS would write it, without TensorFlow."""

import io
import json

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2


def encoded(image, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def varied(count, classes=4, seed=0):
    """(file, label): noisy pictures of one colour, of any width and height from 20 to 60."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        height, width = rng.integers(20, 61, 2)
        colour = np.eye(4, 3)[i % classes] * 180 + rng.uniform(0, 60, (height, width, 3))
        yield encoded(colour.astype(np.uint8)), i % classes


def _example(content, label):
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(content)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString()


def _write_records(file, records):
    if ".tfrecord-" in file:
        import tensorflow as tf

        with tf.io.TFRecordWriter(file) as writer:
            for record in records:
                writer.write(record)
        return
    writer = ArrayRecordWriter(file, "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_builder(
    data_dir,
    name,
    splits,
    shape=(None, None, 3),
    classes=4,
    coding="jpeg",
    version="1.0.0",
    kept_as="array_record",
):
    """Writes `splits`, name -> (file, label) of every example, to data_dir/name/version.

    TFDS knows the versions of its builders. Files of `kept_as` 'tfrecord' need TensorFlow.
    """
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        records = [_example(*example) for example in examples]
        _write_records(str(folder / f"{name}-{split}.{kept_as}-00000-of-00001"), records)
        infos.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(sum(map(len, records))),
                "shardLengths": [str(len(records))],
            }
        )
    core = "tensorflow_datasets.core.features"
    image = {
        "dtype": "uint8",
        "encodingFormat": coding,
        "shape": {"dimensions": [str(n or -1) for n in shape]},
    }
    features = {
        "image": {"image": image, "pythonClassName": f"{core}.image_feature.Image"},
        "label": {
            "classLabel": {"numClasses": str(classes)},
            "pythonClassName": f"{core}.class_label_feature.ClassLabel",
        },
    }
    kind = f"{core}.features_dict.FeaturesDict"
    (folder / "features.json").write_text(
        json.dumps({"featuresDict": {"features": features}, "pythonClassName": kind})
    )
    info = {"fileFormat": kept_as, "name": name, "splits": infos, "version": version}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return data_dir
