#!/usr/bin/env python3
"""Write what scikit-learn computes of features: knn.safetensors and pca.safetensors.

    make_goldens_features.py [--out trainer/tests/goldens]

knn.safetensors: train [n,c] and classes [n], val [m,c], and for each of its rows the predictions k20 and k200, with
the votes exp(cosine similarity / 0.07). Rows whose prediction hangs on rounding are left out: where
the last neighbor and the next one are equally similar, or two classes have equally many votes.

pca.safetensors: rows [n,c], and components [n,5], their leading principal components; the largest
coordinate of each axis is positive.

Needs NumPy, safetensors and scikit-learn.
"""

import argparse
import pathlib

import numpy
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

TRAIN, VAL, CHANNELS, CLASSES = 300, 90, 8, 6
TEMPERATURE, CLOSE = 0.07, 1e-4


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "trainer/tests/goldens")
    out = parser.parse_args().out
    write_knn(out)
    write_pca(out)


def write_pca(out):
    random = numpy.random.default_rng(32)
    rows = random.normal(size=(60, 24)) / numpy.arange(1, 25)
    rows = (3 + rows @ numpy.linalg.qr(random.normal(size=(24, 24)))[0]).astype(numpy.float32)
    pca = PCA(n_components=5, svd_solver="full").fit(rows.astype(numpy.float64))
    components = pca.transform(rows.astype(numpy.float64))
    largest = numpy.abs(pca.components_).argmax(axis=1)
    components *= numpy.sign(pca.components_[range(5), largest])
    save_file(
        {"rows": rows, "components": components.astype(numpy.float32)}, out / "pca.safetensors"
    )


def write_knn(out):
    random = numpy.random.default_rng(31)
    centers = random.normal(size=(CLASSES, CHANNELS))

    def draw(count):
        # Not all classes are equally frequent, so that 200 neighbors prefer the frequent ones.
        classes = (CLASSES * random.random(count) ** 2).astype(numpy.int64)
        features = centers[classes] + 1.2 * random.normal(size=(count, CHANNELS))
        return classes, features.astype(numpy.float32)

    classes, train = draw(TRAIN)
    truth, val = draw(VAL)
    predicted, clear = {}, numpy.ones(VAL, bool)
    for k in (20, 200):
        model = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute",
            weights=lambda distance: numpy.exp((1 - distance) / TEMPERATURE),
        ).fit(train, classes)
        predicted[f"k{k}"] = model.predict(val)
        votes = numpy.sort(model.predict_proba(val), axis=1)
        distances = model.kneighbors(val, k + 1)[0]
        clear &= votes[:, -1] - votes[:, -2] > CLOSE
        clear &= distances[:, k] - distances[:, k - 1] > 1e-6
    file = {"train": train, "classes": classes, "val": val[clear]}
    file |= {name: of_k[clear] for name, of_k in predicted.items()}
    save_file(file, out / "knn.safetensors")
    for name, of_k in predicted.items():
        print(f"{name}: {(of_k == truth)[clear].mean():.1%} of {clear.sum()}")


if __name__ == "__main__":
    main()
