#!/usr/bin/env python3
"""Read shards with DuckDB, pandas, Polars, pyarrow and Hugging Face datasets, and compare what they find.

    test_readers.py [--bin DIR]

Makes small folders of shards from drawn photos with the scrl-prep of --bin (target/debug), runs the lines that the
documentation promises as they stand there, and every query of queries.sql. Needs the packages of
readers_requirements.txt; readers_python.sh prints a Python that has them.
"""
import argparse
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import drawn_photos

# No reader may ask a hub for anything, and none of them reports home.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_UPDATE_DOWNLOAD_COUNTS="0", DO_NOT_TRACK="1")

import datasets  # noqa: E402
import duckdb  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import polars as pl  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.dataset  # noqa: E402
import pyarrow.parquet  # noqa: E402
from PIL import Image  # noqa: E402

CLASSES = ["bird", "cat & dog", "tree's"]
PHOTOS, EPOCHS, SIZE = 30, 4, 96
PARTS = "shards/epoch=*/*.parquet"


def make_shards(programs):
    drawn_photos.draw("photos", PHOTOS, CLASSES)
    pathlib.Path("photos/bird/broken.jpg").write_text("no picture")
    options = ["--epochs", str(EPOCHS), "--size", str(SIZE), "--min-box", "24", "--rows-per-shard", "8", "--max-bad", "0.1", "--quiet"]
    for views in ["webp", "jpeg", "recipe"]:
        folder = "shards" if views == "webp" else views
        subprocess.run([programs / "scrl-prep", *options, "--views", views, "photos", folder], check=True)


# Each reader's rows as dictionaries of plain values, pictures left out: epoch → rows in the order of the files.
def rows_of_duckdb():
    table = duckdb.sql(f"SELECT * FROM read_parquet('{PARTS}', hive_partitioning=true, filename=true, file_row_number=true) "
                       "ORDER BY filename, file_row_number")
    rows = table.to_arrow_table().to_pylist()
    return by_epoch([{name: row[name] for name in row if name not in ("filename", "file_row_number")} for row in rows])


def rows_of_pandas():
    frames = [pd.read_parquet(path).assign(epoch=epoch_of(path)) for path in parts()]
    return by_epoch(row for frame in frames for row in frame.to_dict("records"))


def rows_of_polars():
    return by_epoch(pl.read_parquet(PARTS, hive_partitioning=True).to_dicts())


def rows_of_pyarrow():
    partitioning = pa.dataset.partitioning(pa.schema([("epoch", pa.int64())]), flavor="hive")
    return by_epoch(pa.dataset.dataset([str(p) for p in parts()], partitioning=partitioning).to_table().to_pylist())


def rows_of_datasets():
    rows = []
    for path in parts():
        loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir="cache")
        for column in ["view1", "view2"]:
            assert isinstance(loaded.features[column]["image"], datasets.Image), loaded.features
        rows += [{**row, "epoch": epoch_of(path)} for row in loaded]
    return by_epoch(rows)


def parts(shards="shards"):
    return sorted(pathlib.Path(shards).glob("epoch=*/*.parquet"))


def epoch_of(path):
    return int(path.parent.name.removeprefix("epoch="))


def by_epoch(rows):
    found = {}
    for row in rows:
        found.setdefault(int(row["epoch"]), []).append(row)
    return found


def plain(value):
    """A value that compares the same whoever read it: no pictures, no NumPy."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in ("image", "epoch")}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def pixels(image):
    """A view's pixels, from bytes or from what `datasets` made of them."""
    picture = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image["bytes"]))
    found = np.asarray(picture.convert("RGB"))
    assert found.shape == (SIZE, SIZE, 3), found.shape
    return found


def test_readers_agree():
    readers = [rows_of_duckdb, rows_of_pandas, rows_of_polars, rows_of_pyarrow, rows_of_datasets]
    found = {reader.__name__: reader() for reader in readers}
    reference = found.pop("rows_of_pyarrow")
    assert sorted(reference) == list(range(EPOCHS))
    assert all(len(rows) == PHOTOS for rows in reference.values())
    for name, epochs in found.items():
        assert sorted(epochs) == sorted(reference), name
        for epoch, rows in epochs.items():
            assert plain(rows) == plain(reference[epoch]), f"{name}, epoch {epoch}"
            for mine, theirs in zip(rows, reference[epoch]):
                for view in ["view1", "view2"]:
                    assert (pixels(mine[view]["image"]) == pixels(theirs[view]["image"])).all(), f"{name}: {view}"


def test_rows_hold_what_is_promised():
    for row in rows_of_pyarrow()[0]:
        for view in [row["view1"], row["view2"]]:
            crop = view["crop"]
            assert 0 <= crop["x"] and crop["x"] + crop["width"] <= row["source_width"]
            assert view["jitter"] is None or sorted(view["jitter"]["order"]) == list("bchs")
        for box in row["boxes"]:
            for side, limit in [("view1", SIZE), ("view2", SIZE), ("source", max(row["source_width"], row["source_height"]))]:
                x0, y0, x1, y1 = box[side]
                assert 0 <= x0 < x1 <= limit and 0 <= y0 < y1 <= limit


def test_jpeg_views_are_near_the_lossless_ones():
    ours, exact = (pd.read_parquet(parts(folder)[0]) for folder in ["jpeg", "shards"])
    for jpeg, webp in zip(ours.view1, exact.view1):
        difference = pixels(jpeg["image"]).astype(int) - pixels(webp["image"])
        assert abs(difference).mean() < 3, abs(difference).mean()


def test_recipes_have_no_pictures():
    path = str(parts("recipe")[0])
    assert all(view["image"] is None for view in pd.read_parquet(path).view1)
    assert pl.read_parquet(path)["view1"].struct.field("image").is_null().all()
    loaded = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir="cache")
    assert all(row["view2"]["image"] is None for row in loaded)
    counts = "SELECT sum(len(boxes)) FROM '{}/epoch=00000/*.parquet'"
    assert duckdb.sql(counts.format("recipe")).fetchall() == duckdb.sql(counts.format("shards")).fetchall()


def test_the_documented_sql():
    rows = duckdb.sql(
        "SELECT epoch, count(*), avg(len(boxes)) FROM read_parquet('shards/epoch=*/*.parquet', hive_partitioning=true) GROUP BY epoch;"
    ).fetchall()
    assert sorted((int(epoch), count) for epoch, count, _ in rows) == [(epoch, PHOTOS) for epoch in range(EPOCHS)]
    rows = duckdb.sql(
        "SELECT path, view1.crop.width, boxes[1].view2 FROM 'shards/epoch=00000/part-00000.parquet' WHERE view2.solarize;"
    ).fetchall()
    solarized = [row for row in pd.read_parquet("shards/epoch=00000/part-00000.parquet").view2 if row["solarize"]]
    assert len(rows) == len(solarized)
    rows = duckdb.sql("SELECT path, error FROM 'shards/sources.parquet' WHERE error IS NOT NULL;").fetchall()
    assert [path for path, _ in rows] == ["bird/broken.jpg"]


def test_the_documented_python():
    df = pd.read_parquet("shards/epoch=00000/part-00000.parquet")
    assert Image.open(io.BytesIO(df.view1[0]["image"]["bytes"])).size == (SIZE, SIZE)


def test_the_queries():
    text = (pathlib.Path(__file__).parent / "queries.sql").read_text()
    found = re.findall(r"-- (\d+)\. .*?\n-- columns: (.*?)\n-- rows: (.*?)\n(.*?;)\n", text + "\n", re.S)
    assert [int(number) for number, *_ in found] == list(range(1, 11)), found
    exact = {"one a class": len(CLASSES), "one an epoch": EPOCHS, "one an unreadable image": 1}
    for number, columns, rows, query in found:
        answer = duckdb.sql(query)
        count = len(answer.fetchall())
        assert ", ".join(answer.columns) == columns, f"query {number}: {answer.columns}"
        most = re.fullmatch(r"at most (\d+)", rows)
        right = 0 < count <= int(most[1]) if most else count == (int(rows) if rows.isdigit() else exact[rows])
        assert right, f"query {number}: {count} rows, should be: {rows}"
    boxes = sum(row[2] for row in duckdb.sql(found[0][3]).fetchall())
    assert boxes == sum(len(row["boxes"]) for rows in rows_of_polars().values() for row in rows)
    smallest = duckdb.sql(found[3][3]).fetchall()[0]
    assert smallest[3] >= 24 and smallest[4] >= 24, smallest
    shares = {(view, step): share for view, step, share, *_ in duckdb.sql(found[4][3]).fetchall()}
    assert shares[1, "blur"] == 1 and shares[1, "solarize"] == 0 and 0.3 < shares[2, "flip"] < 0.7, shares


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    arguments.add_argument("--bin", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "target/debug")
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
