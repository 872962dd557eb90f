"""Writes tests/data/peer/crops.json: what the reference's crops, scale jitter and random erasing take of a picture, with the draws of Frameshift's jobs.

git clone https://github.com/linziyi96/st-adapter && python3 -m venv venv && venv/bin/pip install numpy && venv/bin/python tests/peer/crops.py st-adapter

The reference's own functions run, and nothing of it is copied: its `random` and `np.random` draw from Frameshift's streams, and PyTorch is replaced by recorders of
what is asked of it.
"""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np

from streams import Stream

FILE = pathlib.Path(__file__).parent.parent / "data" / "peer" / "crops.json"
SEED, VIEW = 31, 224
PICTURES = [(320, 240), (240, 320), (1920, 1080), (224, 224), (7, 3), (3, 7), (1000, 100), (100, 1000), (640, 360)]


class Anything(types.ModuleType):
    """A module of which everything may be imported and nothing is used."""

    def __getattr__(self, name):
        return Anything(name)

    def __call__(self, *given, **named):
        return Anything("result")


def interpolate(images, size, **_):
    return Images(size, images.part)


class Images:
    """A tensor that remembers its shape and which part of it was taken or written."""

    def __init__(self, size, part=None):
        self.shape, self.part = (1, 1, *size), part

    def __getitem__(self, place):
        rows, columns = place[-2:]
        size = (rows.stop - rows.start, columns.stop - columns.start)
        return Images(size, (columns.start, rows.start, size[1], size[0]))


class Erased:
    """A frame of which a rectangle is replaced."""

    part = None

    def __setitem__(self, place, _):
        rows, columns = place[-2:]
        Erased.part = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


class Frames:
    dtype = "float32"

    def __init__(self, side):
        self.side = side

    def size(self):
        return (2, 3, self.side, self.side)

    def __getitem__(self, _):
        return Erased()


class Draws:
    """Stands for `random` and `np.random`. Frameshift draws a crop's left edge before its upper one, the reference the upper one first."""

    def __init__(self, stream, swaps):
        self.stream, self.swaps, self.later = stream, swaps, None

    def random(self):
        return float(self.stream.unit())

    def uniform(self, low=0.0, high=1.0):
        return float(self.stream.range(low, high))

    def randint(self, low, high):
        if not self.swaps:
            return low + self.stream.below(high - low + 1)
        if self.later is None:
            self.later, now = self.stream.bits(), self.stream.bits()
        else:
            now, self.later = self.later, None
        return low + ((now * (high - low + 1)) >> 64)


def load(root):
    """The reference's modules, without what they import."""
    package = types.ModuleType("video_dataset")
    package.__path__ = [str(root / "video_dataset")]
    sys.modules["video_dataset"] = package
    for name in ["torch", "torchvision", "torchvision.transforms", "torchvision.transforms.functional", "PIL", "video_dataset.rand_augment"]:
        sys.modules[name] = Anything(name)
    from video_dataset import random_erasing, transform

    functional = types.SimpleNamespace(interpolate=interpolate)
    transform.torch = types.SimpleNamespace(nn=types.SimpleNamespace(functional=functional))
    random_erasing.torch = types.SimpleNamespace(float32=None, zeros=lambda *_, **__: 0)
    return transform, random_erasing


def crop(transform, size, least, example):
    draws = Draws(Stream.new(SEED, "crop").fork(0).fork(example), True)
    transform.random = draws
    # The draw that would exchange the sides is made, and not looked at.
    transform.np = types.SimpleNamespace(random=types.SimpleNamespace(uniform=lambda: 1.0))
    images = transform.random_resized_crop(Images(size[::-1]), VIEW, VIEW, scale=(least, 1.0))
    return images.part


def jitter(transform, size, largest, example):
    draws = Draws(Stream.new(SEED, "jitter").fork(0).fork(example), True)
    # Its integers are below the upper end.
    drawn = types.SimpleNamespace(
        uniform=draws.uniform,
        randint=lambda low, high: draws.randint(low, high - 1),
    )
    transform.np = types.SimpleNamespace(random=drawn)
    images = Images(size[::-1])
    scaled, _ = transform.random_short_side_scale_jitter(images, VIEW, round(VIEW * largest))
    height, width = scaled.shape[2:]
    if (height, width) == (VIEW, VIEW):
        return None
    x, y, w, h = transform.random_crop(scaled, VIEW)[0].part
    # Back to the picture's own pixels.
    return (x * size[0] / width, y * size[1] / height, w * size[0] / width, h * size[1] / height)


def erased(random_erasing, side, probability, example):
    random_erasing.random = Draws(Stream.new(SEED, "erasing").fork(0).fork(example), False)
    Erased.part = None
    random_erasing.RandomErasing(probability)(Frames(side))
    return Erased.part


def main(root):
    transform, random_erasing = load(root)
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    cases = {"crops": [], "jitters": [], "erased": []}
    for number, size in enumerate(PICTURES):
        for least in (0.08, 0.5, 0.99):
            for example in range(12):
                own = 100 * number + example
                cases["crops"].append([*size, least, own, crop(transform, size, least, own)])
        for largest in (1.15, 1.6):
            for example in range(12):
                own = 100 * number + example
                part = jitter(transform, size, largest, own)
                if part and min(size) > 3:
                    cases["jitters"].append([*size, largest, own, [round(value, 3) for value in part]])
    for side in (32, 224):
        for example in range(60):
            cases["erased"].append([side, 0.5, example, erased(random_erasing, side, 0.5, example)])
    head = {"reference": f"linziyi96/st-adapter {commit.stdout.strip()}", "seed": SEED, "view": VIEW}
    lines = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
    for name, rows in cases.items():
        rows = ",\n".join(json.dumps(row) for row in rows)
        lines.append(f'"{name}": [\n{rows}\n]')
    FILE.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
