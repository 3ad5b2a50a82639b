"""Batches made by a `tf.data` service: the same ones as without it, each once."""

import os
import socket
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from data_prep.pipeline import Augmentation
from data_prep.pipeline import build_dataset
from data_prep.records import Chunk
from data_prep.records import encode
from data_prep.records import write_records
from data_prep.service import made_by_service
from segkit.errors import ConfigError

AUGMENT = [
    {"multi_scale": {"scales": [0.5, 1.0, 2.0]}},
    {"rotation": {"probability": 0.5, "degrees": 30}},
    {"gamma": {}},
]
RECORDS = 7


@pytest.fixture(scope="module")
def service():
    """A dispatcher with two workers in this process; its address."""
    kinds = tf.data.experimental.service
    dispatcher = kinds.DispatchServer()
    address = dispatcher.target.removeprefix("grpc://")
    workers = [kinds.WorkerServer(kinds.WorkerConfig(address)) for _ in range(2)]
    yield dispatcher.target
    del workers


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder and manifest of records whose image is their number plus a little noise."""
    folder = tmp_path_factory.mktemp("numbered")
    label = np.zeros((6, 7, 8), np.uint8)
    label[2, 3, 4] = 1
    noise = np.random.default_rng(0).uniform(0, 0.1, (RECORDS, *label.shape, 1))
    chunks = [
        Chunk(
            case_id=f"c{n}",
            image=np.float32(n + noise[n]),
            label=label,
            spacing_mm=np.ones(3),
            affine=np.eye(4),
            origin=np.zeros(3),
            case_shape=np.array(label.shape),
            class_counts=np.bincount(label.ravel()),
            foreground=np.array([[1, 2, 3, 4]]),
        )
        for n in range(RECORDS)
    ]
    shards = []
    for part in range(2):
        name = f"fold0-{part:05d}-of-00002.tfrecord"
        written = write_records(folder / name, map(encode, chunks[part::2]))
        shards.append({"file": name, "split": "fold0", **written})
    classes = [{"name": "background", "value": 0}, {"name": "dot", "value": 1}]
    preprocess = {"spacing_mm": [1, 1, 1]}
    manifest = {"channels": ["MRI"], "classes": classes, "shards": shards}
    return folder, manifest | {"preprocess": preprocess}


def build(data, **options):
    defaults = {"patch_size": (4, 4, 4), "batch_size": 2, "seed": 3}
    return build_dataset(*data, ("fold0",), **defaults | options)


def counted(batches):
    return Counter(b"".join(np.asarray(part).tobytes() for part in batch) for batch in batches)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 7])  # 2: batches straddle the seam of two rounds
def test_workers_make_the_same_batches_each_once(data, service, batch_size):
    options = {"batches": 42 // batch_size, "batch_size": batch_size}
    options["augment"] = Augmentation(AUGMENT)
    alone = counted(build(data, **options).as_numpy_iterator())
    shared = counted(build(data, service=service, **options).as_numpy_iterator())
    assert set(alone.values()) == {1}
    assert shared == alone


def test_each_round_of_every_worker_holds_each_record_once(data, service):
    stream = build(data, service=service, batch_size=1, foreground_fraction=0.0)
    found = Counter(int(image.max()) for image, _ in stream.take(60).as_numpy_iterator())
    # 60 examples: 8 rounds and 4; with two workers, at most two rounds are incomplete.
    assert set(found) == set(range(RECORDS))
    assert max(found.values()) - min(found.values()) <= 2


def test_repeats_count_with_workers_too(data, service):
    folder, manifest = data
    cases = {f"c{n}": {"shape": [6, 7, 8]} for n in range(RECORDS)}
    shards = [shard | {"cases": list(cases)[n::2]} for n, shard in enumerate(manifest["shards"])]
    more = {"cases": cases, "shards": shards, "options": {"chunk": 8, "chunk_overlap": 4}}
    options = {"repeats": {"c0": 0, "c5": 3}, "batches": 16}  # 8 examples per round
    alone = counted(build((folder, manifest | more), **options).as_numpy_iterator())
    shared = build((folder, manifest | more), service=service, **options)
    assert counted(shared.as_numpy_iterator()) == alone


def test_an_endless_stream_goes_on_from_any_batch(data, service):
    endless = build(data, service=service, start_index=14, batch_size=7)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    later = counted(build(data, batch_size=7).skip(2).take(40).as_numpy_iterator())
    assert counted(endless.take(6).as_numpy_iterator()) <= later


def test_a_finite_stream_has_its_cardinality_and_can_be_repeated(data, service):
    stream = build(data, service=service, batches=5)
    assert stream.cardinality() == 5
    passes = [counted(stream.as_numpy_iterator()) for _ in range(2)]
    assert passes[0] == passes[1]


def test_patches_for_augmentation_on_devices_pass_through(data, service):
    options = {"augment": Augmentation(AUGMENT, "device"), "batches": 7}
    alone = counted(build(data, **options).as_numpy_iterator())
    assert counted(build(data, service=service, **options).as_numpy_iterator()) == alone


def test_two_replicas_share_a_batch(data, service):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    stream = strategy.experimental_distribute_dataset(build(data, service=service, batches=7))
    found = Counter()
    for image, label in stream:
        parts = zip(*map(strategy.experimental_local_results, (image, label)), strict=True)
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        assert images.shape == (2, 4, 4, 4, 1)
        found += counted([(images, labels)])
    assert found == counted(build(data, batches=7).as_numpy_iterator())


def test_records_that_fit_into_memory_are_read_once_by_each_worker(data, service, tmp_path):
    folder, manifest = data
    for shard in manifest["shards"]:
        (tmp_path / shard["file"]).write_bytes((folder / shard["file"]).read_bytes())
    batches = iter(build((tmp_path, manifest), service=service, batch_size=7))
    images = [next(batches)[0] for _ in range(500)]  # by then, both workers made a round
    for shard in manifest["shards"]:
        (tmp_path / shard["file"]).unlink()
    assert len(images + [next(batches)[0] for _ in range(100)]) == 600


def test_an_address_where_nothing_answers_is_refused_at_once(data):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"grpc://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"nothing answers at .* \(Connection refused\)"):
            build(data, service=address)


@pytest.mark.parametrize("address", ["localhost:5000", "grpc://:5000", "grpc://here", "5000"])
def test_a_malformed_address_is_refused(address):
    with pytest.raises(ConfigError, match=f"must be grpc://HOST:PORT, got {address!r}"):
        made_by_service(tf.data.Dataset.range(3), address, 1)


@pytest.mark.parametrize("address", ["grpc://no.such.host.invalid:5000", "grpc://127.0.0.1:99999"])
def test_an_address_that_cannot_be_is_refused(address):
    with pytest.raises(ConfigError, match="nothing answers at"):
        made_by_service(tf.data.Dataset.range(3), address, 1)
