#!/usr/bin/env python3
"""Read shards with DuckDB, pandas, Polars, pyarrow, Hugging Face datasets and PyTorch's loader, and
compare the rows.

    test_readers.py [--bin DIR]

Makes small shards folders from synthetic images with the scrl-prep of --bin (target/debug), and
runs the documented lines of SQL and Python as they stand there and every query of queries.sql.
Needs the packages of readers_requirements.txt; readers_python.sh prints a Python that has them.
PyTorch is not one of them, as it is large: the documented loop runs in the Python that SCRL_PYTHON
names, with PyTorch, torchvision, NumPy, Pillow and pyarrow. Where SCRL_PYTHON is not set, its class
runs here with a stand-in for the three names of PyTorch that it uses; the result says so.
"""
import argparse
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

# The readers stay offline and send no statistics.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ.update(HF_UPDATE_DOWNLOAD_COUNTS="0", DO_NOT_TRACK="1")

import datasets  # noqa: E402
import duckdb  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import polars as pl  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.dataset  # noqa: E402
import pyarrow.parquet  # noqa: E402
from PIL import Image  # noqa: E402

import synthetic_images  # noqa: E402

CLASSES = ["bird", "cat & dog", "tree's"]
IMAGES, EPOCHS, SIZE = 30, 4, 96
SHARDS = "shards/epoch=*/*.parquet"


def make_shards(programs):
    synthetic_images.write_class_folders("images", IMAGES, CLASSES)
    pathlib.Path("images/bird/broken.jpg").write_text("no image")
    options = ["--epochs", str(EPOCHS), "--size", str(SIZE), "--min-box", "24"]
    options += ["--rows-per-shard", "8", "--max-bad", "0.1", "--quiet"]
    for views in ["webp", "jpeg", "recipe"]:
        folder = "shards" if views == "webp" else views
        command = [programs / "scrl-prep", *options, "--views", views, "images", folder]
        subprocess.run(command, check=True)
    command = [programs / "scrl-embed", "--checkpoint", "random", "--arch", "resnet18", "--quiet"]
    command += ["--size", "64", "--device", "cpu", "images", "features.parquet"]
    subprocess.run(command, check=True)


# Each reader's rows, epoch → rows in folder order.
def rows_of_duckdb():
    table = duckdb.sql(
        f"SELECT * FROM read_parquet('{SHARDS}', hive_partitioning=true, filename=true, "
        "file_row_number=true) ORDER BY filename, file_row_number"
    )
    added = ("filename", "file_row_number")
    rows = table.to_arrow_table().to_pylist()
    return by_epoch({name: row[name] for name in row if name not in added} for row in rows)


def rows_of_pandas():
    frames = [pd.read_parquet(path).assign(epoch=epoch_of(path)) for path in shards_in()]
    return by_epoch(row for frame in frames for row in frame.to_dict("records"))


def rows_of_polars():
    return by_epoch(pl.read_parquet(SHARDS, hive_partitioning=True).to_dicts())


def rows_of_pyarrow():
    partitioning = pa.dataset.partitioning(pa.schema([("epoch", pa.int64())]), flavor="hive")
    files = [str(path) for path in shards_in()]
    return by_epoch(pa.dataset.dataset(files, partitioning=partitioning).to_table().to_pylist())


def load_dataset(path):
    """One shard with Hugging Face datasets."""
    files = str(path)
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir="cache")


def rows_of_datasets():
    rows = []
    for path in shards_in():
        loaded = load_dataset(path)
        for column in ["view1", "view2"]:
            assert isinstance(loaded.features[column]["image"], datasets.Image), loaded.features
        rows += [{**row, "epoch": epoch_of(path)} for row in loaded]
    return by_epoch(rows)


def shards_in(folder="shards"):
    return sorted(pathlib.Path(folder).glob("epoch=*/*.parquet"))


def epoch_of(path):
    return int(path.parent.name.removeprefix("epoch="))


def by_epoch(rows):
    found = {}
    for row in rows:
        found.setdefault(int(row["epoch"]), []).append(row)
    return found


def plain(value):
    """The same value for every reader: without images, epochs and NumPy types."""
    if isinstance(value, dict):
        left_out = ("image", "epoch")
        return {name: plain(inner) for name, inner in value.items() if name not in left_out}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def pixels(image):
    """A view's pixels, from its struct of bytes or from the image that `datasets` decoded."""
    decoded = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image["bytes"]))
    found = np.asarray(decoded.convert("RGB"))
    assert found.shape == (SIZE, SIZE, 3), found.shape
    return found


def test_readers_agree():
    readers = [rows_of_duckdb, rows_of_pandas, rows_of_polars, rows_of_pyarrow, rows_of_datasets]
    found = {reader.__name__: reader() for reader in readers}
    reference = found.pop("rows_of_pyarrow")
    assert sorted(reference) == list(range(EPOCHS))
    assert all(len(rows) == IMAGES for rows in reference.values())
    for name, epochs in found.items():
        assert sorted(epochs) == sorted(reference), name
        for epoch, rows in epochs.items():
            assert plain(rows) == plain(reference[epoch]), f"{name}, epoch {epoch}"
            for mine, theirs in zip(rows, reference[epoch]):
                for view in ["view1", "view2"]:
                    ours, other = pixels(mine[view]["image"]), pixels(theirs[view]["image"])
                    assert (ours == other).all(), f"{name}: {view}"


def test_crops_and_boxes_lie_inside():
    for row in rows_of_pyarrow()[0]:
        for view in [row["view1"], row["view2"]]:
            crop = view["crop"]
            assert 0 <= crop["x"] and crop["x"] + crop["width"] <= row["source_width"]
            assert (view["vertical_flip"], view["turns"]) == (False, 0)
            assert view["jitter"] is None or sorted(view["jitter"]["order"]) == list("bchs")
        for box in row["boxes"]:
            source = max(row["source_width"], row["source_height"])
            for side, limit in [("view1", SIZE), ("view2", SIZE), ("source", source)]:
                x0, y0, x1, y1 = box[side]
                assert 0 <= x0 < x1 <= limit and 0 <= y0 < y1 <= limit


def test_jpeg_views_are_near_the_lossless_ones():
    ours, exact = (pd.read_parquet(shards_in(folder)[0]) for folder in ["jpeg", "shards"])
    for jpeg, webp in zip(ours.view1, exact.view1):
        difference = pixels(jpeg["image"]).astype(int) - pixels(webp["image"])
        assert abs(difference).mean() < 3, abs(difference).mean()


def test_recipes_have_no_images():
    path = str(shards_in("recipe")[0])
    assert all(view["image"] is None for view in pd.read_parquet(path).view1)
    assert pl.read_parquet(path)["view1"].struct.field("image").is_null().all()
    assert all(row["view2"]["image"] is None for row in load_dataset(path))
    count = "SELECT sum(len(boxes)) FROM '{}/epoch=00000/*.parquet'"
    recipe, webp = (duckdb.sql(count.format(name)).fetchall() for name in ["recipe", "shards"])
    assert recipe == webp


def test_the_documented_sql():
    rows = duckdb.sql(
        "SELECT epoch, count(*), avg(len(boxes)) "
        "FROM read_parquet('shards/epoch=*/*.parquet', hive_partitioning=true) GROUP BY epoch;"
    ).fetchall()
    counts = sorted((int(epoch), count) for epoch, count, _ in rows)
    assert counts == [(epoch, IMAGES) for epoch in range(EPOCHS)]
    rows = duckdb.sql(
        "SELECT path, view1.crop.width, boxes[1].view2 "
        "FROM 'shards/epoch=00000/part-00000.parquet' WHERE view2.solarize;"
    ).fetchall()
    views = pd.read_parquet("shards/epoch=00000/part-00000.parquet").view2
    assert len(rows) == sum(view["solarize"] for view in views)
    rows = duckdb.sql(
        "SELECT path, error FROM 'shards/sources.parquet' WHERE error IS NOT NULL;"
    ).fetchall()
    assert [path for path, _ in rows] == ["bird/broken.jpg"]


def test_the_documented_python():
    df = pd.read_parquet("shards/epoch=00000/part-00000.parquet")
    assert Image.open(io.BytesIO(df.view1[0]["image"]["bytes"])).size == (SIZE, SIZE)


# Prints a JSON line for each division of an epoch between ranks and workers: of every row the
# checksums of the views and the boxes, by rank. Its arguments are the file with the documented
# class, the file with the documented loop, and the divisions.
LOOP_CHECK = """
import json, multiprocessing, sys, types, zlib
# The classes of this program have no file from which another method could import them.
multiprocessing.set_start_method("fork")
try:
    import torch
    print(json.dumps(f"PyTorch {torch.__version__}"))
except ImportError:
    torch = types.ModuleType("torch")
    data = types.SimpleNamespace(IterableDataset=object, get_worker_info=lambda: torch.worker)
    torch.utils, torch.worker = types.SimpleNamespace(data=data), None
    torch.from_numpy = lambda array: array
    sys.modules["torch"] = torch
    print(json.dumps(f"a stand-in for PyTorch, which {sys.executable} lacks"))
is_real = hasattr(torch, "Tensor")
exec(open(sys.argv[1]).read())

def rows_of(shards, workers):
    if is_real:
        loader = torch.utils.data.DataLoader(shards, batch_size=None, num_workers=workers)
        yield from loader
        return
    for number in range(max(workers, 1)):
        info = types.SimpleNamespace(id=number, num_workers=workers)
        torch.worker = info if workers else None
        yield from iter(shards)

def plain(row):
    arrays = [value.numpy() if is_real else value for value in row]
    views = [[str(a.dtype), a.shape, zlib.crc32(a.tobytes())] for a in arrays[:2]]
    return [*views, *([str(a.dtype), a.tolist()] for a in arrays[2:])]

for world_size, workers in json.loads(sys.argv[3]):
    ranks = [Shards("shards", 1, rank, world_size) for rank in range(world_size)]
    print(json.dumps([[plain(row) for row in rows_of(rank, workers)] for rank in ranks]))
if is_real:
    exec(open(sys.argv[2]).read())
    print(json.dumps([len(batch), *(list(e.shape) for e in embeddings)]))
"""


def test_the_documented_loop_of_pytorch():
    text = (pathlib.Path(__file__).parent.parent / "docs/format.md").read_text()
    section = text.split("## The shards in a PyTorch loop")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 2, len(blocks)
    for name, block in zip(["class.py", "loop.py"], blocks):
        pathlib.Path(name).write_text(block)
    divisions = [(1, 0), (1, 2), (2, 2), (3, 2)]
    python = os.environ.get("SCRL_PYTHON") or sys.executable
    command = [python, "-c", LOOP_CHECK, "class.py", "loop.py", json.dumps(divisions)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, *found = map(json.loads, done.stdout.splitlines())

    def row_of(row):
        arrays = [pixels(row[view]["image"]).transpose(2, 0, 1) for view in ["view1", "view2"]]
        views = [["uint8", [3, SIZE, SIZE], zlib.crc32(array.tobytes())] for array in arrays]
        boxes = [["float32", [box[view] for box in row["boxes"]]] for view in ["view1", "view2"]]
        return [*views, *boxes]

    expected = [row_of(row) for row in rows_of_pyarrow()[1]]
    for (world_size, workers), ranks in zip(divisions, found):
        rows = [row for rank in ranks for row in rank]
        assert len(ranks) == world_size
        # One worker of one rank reads in order; every row comes once in any division.
        ordered = (lambda rows: rows) if (world_size, workers) == (1, 0) else sorted
        assert ordered(rows) == ordered(expected), (world_size, workers)
        # There are four row groups, two for each of the first two ranks.
        assert all(ranks[:2])
    if kind.startswith("PyTorch"):
        size, first, second = found[len(divisions)]
        assert 0 < size <= 8 and first == second and first[1] == 512, found[len(divisions)]
    print(f"the documented loop ran with {kind}")


def test_the_documented_use_of_embeddings():
    text = (pathlib.Path(__file__).parent.parent / "docs/embed.md").read_text()
    (query,) = re.findall(r"```sql\n(.*?)```", text, re.S)
    nearest = duckdb.sql(query).fetchall()
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    for block in blocks:
        exec(block, names)
    features, table = names["features"], names["table"]
    assert len(blocks) == 2 and features.shape == (IMAGES, 512), features.shape
    assert features.dtype == np.float32 and sorted(set(table["class"])) == sorted(CLASSES)
    # DuckDB and scikit-learn agree on the neighbors of the documented image.
    row = list(table.path).index("bird/00000.png")
    expected = [table.path[i] for i in names["neighbors"][row]]
    assert [path for path, _ in nearest] == expected, (nearest, expected)
    distances = [1 - similarity for _, similarity in nearest]
    assert np.allclose(distances, names["distances"][row], atol=1e-5)
    centered = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    variance = np.linalg.svd(centered, compute_uv=False)[:3] ** 2
    assert np.allclose((np.stack(table.pca).astype(np.float64) ** 2).sum(0), variance, rtol=1e-4)


def test_the_queries():
    text = (pathlib.Path(__file__).parent / "queries.sql").read_text()
    pattern = r"-- (\d+)\. .*?\n-- columns: (.*?)\n-- rows: (.*?)\n(.*?;)\n"
    found = re.findall(pattern, text + "\n", re.S)
    assert [int(number) for number, *_ in found] == list(range(1, 11)), found
    exact = {"14": 14, "one per class": len(CLASSES), "one per epoch": EPOCHS}
    exact["one per unreadable image"] = 1
    for number, columns, rows, query in found:
        answer = duckdb.sql(query)
        count = len(answer.fetchall())
        assert ", ".join(answer.columns) == columns, f"query {number}: {answer.columns}"
        most = re.fullmatch(r"at most (\d+)", rows)
        right = 0 < count <= int(most[1]) if most else count == exact[rows]
        assert right, f"query {number}: {count} rows, should be: {rows}"
    boxes = sum(row[2] for row in duckdb.sql(found[0][3]).fetchall())
    assert boxes == sum(len(row["boxes"]) for rows in rows_of_polars().values() for row in rows)
    smallest = duckdb.sql(found[3][3]).fetchall()[0]
    assert smallest[3] >= 24 and smallest[4] >= 24, smallest
    rows = duckdb.sql(found[4][3]).fetchall()
    frequency = {(view, step): found for view, step, found, *_ in rows}
    assert frequency[1, "blur"] == 1 and frequency[1, "solarize"] == 0, frequency
    assert 0.3 < frequency[2, "flip"] < 0.7, frequency


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    debug = pathlib.Path(__file__).parent.parent / "target/debug"
    arguments.add_argument("--bin", type=pathlib.Path, default=debug)
    programs = arguments.parse_args().bin.resolve()
    datasets.disable_progress_bars()
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    with tempfile.TemporaryDirectory() as folder:
        start = os.getcwd()
        os.chdir(folder)
        make_shards(programs)
        for name, test in tests:
            test()
            print(f"{name.removeprefix('test_').replace('_', ' ')}: ok")
        os.chdir(start)
    print(f"test_readers: {len(tests)} passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
