"""Batches: a pure function of (sampler, step), exact epochs, exact restart, every host its part."""

import resource
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import batches as input
from hpa_jax.data import catalog, records
from tests.data.layouts import competition, picture

IDS = [f"t{i}" for i in (4, 0, 2, 1, 3)]  # neither sorted nor in record order
LABELS = np.eye(5, 28, dtype=np.uint8)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = competition(tmp_path_factory.mktemp("input") / "data")
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    folder = records.write(table, root / "r", image_size=16, encoding="png", shard_images=4)
    return input.Records(folder)


def shuffled(epoch):
    return np.random.default_rng([7, epoch]).permutation(5)


def train(opened, count, batch_size=4, sampler=shuffled, **options):
    options = dict(channels=opened.channels, image_size=16, sampler=sampler) | options
    batches = input.train_batches(opened, IDS, LABELS, batch_size=batch_size, **options)
    return list(islice(batches, count))


def test_images_labels_and_rows_belong_together(opened):
    for batch in train(opened, 3):
        assert batch["image"].shape == (4, 16, 16, 4) and batch["image"].dtype == np.uint8
        assert batch["mask"].all() and batch["index"].dtype == np.int32
        assert np.array_equal(batch["label"], LABELS[batch["index"]])
        for image, row in zip(batch["image"], batch["index"], strict=True):
            assert np.array_equal(image, picture(int(IDS[row][1:])))


@pytest.mark.parametrize("encoding", ["raw", "zstd"])
def test_damage_inside_a_shard_of_the_right_size_names_it(tmp_path, encoding):
    table = catalog.build(
        [dict(source="kaggle", root=competition(tmp_path / "data"))], classes.NAMES
    )
    settings = dict(image_size=16, encoding=encoding)
    folder = records.write(table, tmp_path / "r", **settings)
    shard = folder / "hpa-train-00000.array_record"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3 :: 97] = bytes(255 - x for x in content[len(content) // 3 :: 97])
    shard.write_bytes(content)
    said = r"hpa-train-00000\.array_record: damaged inside, at 't\d' .*verb records"
    with pytest.raises(InputError, match=said):
        train(input.Records(folder), 1)
    with pytest.raises(InputError, match=said) as caught:
        opened = input.Records(folder)
        [opened.image(row) for row in range(len(opened))]
    assert "\n" not in str(caught.value)
    shard.unlink()  # what the message asks for
    records.write(table, tmp_path / "r", **settings)
    assert len(train(input.Records(folder), 1)) == 1


def test_epochs_are_exact_and_cross_batches(opened):
    rows = np.concatenate([b["index"] for b in train(opened, 5)])
    assert np.array_equal(rows, np.concatenate([shuffled(e) for e in range(4)]))


@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_restart_gives_what_the_uninterrupted_run_gave(opened, start):
    whole = train(opened, 9)
    again = train(opened, 9 - start, start=start)
    for expected, batch in zip(whole[start:], again, strict=True):
        for key in expected:
            assert np.array_equal(expected[key], batch[key])


def test_a_restart_reads_no_earlier_image(opened, monkeypatch):
    read = []
    plain = input.Records.serialized
    monkeypatch.setattr(
        input.Records, "serialized", lambda self, row: (read.append(row), plain(self, row))[1]
    )
    train(opened, 1, start=2000, prefetch=1)
    assert len(read) < 100


def test_hosts_split_each_batch_between_them(opened):
    whole = train(opened, 4)
    parts = [train(opened, 4, process_index=i, process_count=2) for i in (0, 1)]
    for expected, first, second in zip(whole, *parts, strict=True):
        assert len(first["index"]) == 2
        for key in expected:
            assert np.array_equal(expected[key], np.concatenate([first[key], second[key]]))


def test_a_sampler_may_repeat_or_leave_out_rows(opened):
    rows = [b["index"].tolist() for b in train(opened, 2, 4, lambda epoch: np.array([1, 1, 3]))]
    assert rows == [[1, 1, 3, 1], [1, 3, 1, 1]]
    with pytest.raises(InputError, match="empty"):
        train(opened, 1, 4, lambda epoch: np.array([], int))


def test_evaluation_sees_each_image_once_in_order(opened):
    batches = list(
        input.eval_batches(
            opened, IDS, LABELS, batch_size=2, channels=opened.channels, image_size=16
        )
    )
    assert [b["mask"].tolist() for b in batches] == [[True, True], [True, True], [True, False]]
    rows = np.concatenate([b["index"][b["mask"]] for b in batches])
    assert rows.tolist() == [0, 1, 2, 3, 4]
    for batch in batches:
        for image, row in zip(batch["image"], batch["index"], strict=True):
            assert np.array_equal(image, picture(int(IDS[row][1:])))


def test_evaluation_on_hosts_covers_every_image(opened):
    seen = []
    for host in (0, 1, 2):
        batches = input.eval_batches(
            opened,
            IDS,
            None,
            batch_size=3,
            channels=("green",),
            image_size=16,
            process_index=host,
            process_count=3,
        )
        for batch in batches:
            assert batch["image"].shape == (1, 16, 16, 1) and batch["label"].shape == (1, 0)
            seen += batch["index"][batch["mask"]].tolist()
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_channels_are_chosen_by_name_and_sizes_scaled(opened):
    batch = train(opened, 1, channels=("blue", "red"), image_size=8)[0]
    for image, row in zip(batch["image"], batch["index"], strict=True):
        # blocks of 4 x 4 are constant: averaging 2 x 2 keeps their values
        assert np.array_equal(image, picture(int(IDS[row][1:]))[::2, ::2, [2, 0]])
    with pytest.raises(InputError, match="'violet' is not in"):
        train(opened, 1, channels=("violet",))


def test_wrong_sizes_are_said(opened):
    with pytest.raises(InputError, match="multiple of 3 hosts"):
        train(opened, 1, process_count=3)
    with pytest.raises(InputError, match="5 ids, but labels of 4 rows"):
        next(
            input.train_batches(
                opened,
                IDS,
                LABELS[:4],
                batch_size=2,
                channels=opened.channels,
                image_size=16,
                sampler=shuffled,
            )
        )


def resident():
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells it")
def test_memory_is_flat_over_three_epochs(tmp_path):
    root = competition(tmp_path / "data", train=20, side=512)
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    folder = records.write(table, tmp_path / "r", image_size=512, encoding="zstd")
    opened = input.Records(folder)
    batches = input.train_batches(
        opened,
        opened.ids,
        np.zeros((len(opened), 28), np.uint8),
        batch_size=4,  # MiB: few in flight
        channels=opened.channels,
        image_size=512,
        sampler=lambda epoch: np.arange(240) % len(opened),
    )
    after = []
    for _ in range(4):  # the first fills queues and buffers
        for _ in range(60):
            next(batches)
        after.append(resident())
    batches.close()
    assert max(after[1:]) <= 1.05 * min(after[1:])
