#!/usr/bin/env python3
"""Write trainer/tests/goldens/bootstrap/expected.json: a paired difference of two backbones on the
boxes of 60 images, and its 95 % interval by SciPy's bootstrap over images, of a million draws.

    make_goldens_bootstrap.py [--out trainer/tests/goldens/bootstrap]

Needs NumPy and SciPy.
"""

import argparse
import json
import pathlib

import numpy
from scipy.stats import bootstrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = 60


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "trainer/tests/goldens/bootstrap")
    out = parser.parse_args().out
    random = numpy.random.default_rng(5)
    boxes = random.integers(1, 12, IMAGES)
    # Boxes of an image are easy or hard together.
    ease = random.normal(0, 0.2, IMAGES)
    right = [random.binomial(boxes, numpy.clip(p + ease, 0, 1)) for p in (0.45, 0.35)]
    difference = right[0] - right[1]
    found = bootstrap(
        (difference, boxes),
        lambda d, n, axis: d.sum(axis) / n.sum(axis),
        n_resamples=1_000_000,
        batch=10_000,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=numpy.random.default_rng(6),
    )
    expected = {
        "images": numpy.stack([difference, boxes], 1).tolist(),
        "interval": list(found.confidence_interval),
        "standard_error": found.standard_error,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
