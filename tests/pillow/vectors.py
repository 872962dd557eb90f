"""Writes tests/data/pillow/vectors.{json,bin}: what Pillow makes of two pictures by each operation of RandAugment.

python3 -m venv venv && venv/bin/pip install pillow && venv/bin/python tests/pillow/vectors.py
"""

import json
import pathlib
import random

import PIL
from PIL import Image, ImageEnhance, ImageOps

FILL = (128, 128, 128)
FOLDER = pathlib.Path(__file__).parent.parent / "data" / "pillow"


def affine(data):
    return lambda image: image.transform(
        image.size, Image.AFFINE, data(image), resample=Image.BICUBIC, fillcolor=FILL
    )


def solarize_add(image, add):
    table = [min(255, i + add) if i < 128 else i for i in range(256)]
    return image.point(table * 3)


def posterize(image, bits):
    # Pillow refuses 0 bits since its release 11; before, nothing was kept.
    return ImageOps.posterize(image, bits) if bits > 0 else image.point(lambda _: 0)


# By the name that the operation has in Frameshift: its argument at a level from 0 to 10 with a sign, and the operation itself.
OPERATIONS = {
    "AutoContrast": (None, lambda image, _: ImageOps.autocontrast(image)),
    "Equalize": (None, lambda image, _: ImageOps.equalize(image)),
    "Invert": (None, lambda image, _: ImageOps.invert(image)),
    "Rotate": (
        lambda level, sign: sign * level / 10 * 30.0,
        lambda image, x: image.rotate(x, resample=Image.BICUBIC, fillcolor=FILL),
    ),
    "Posterize": (
        lambda level, sign: int(level / 10 * 4) if sign < 0 else 4 - int(level / 10 * 4),
        posterize,
    ),
    "Solarize": (
        lambda level, sign: int(level / 10 * 256) if sign < 0 else 256 - int(level / 10 * 256),
        lambda image, x: ImageOps.solarize(image, x),
    ),
    "SolarizeAdd": (lambda level, _: int(level / 10 * 110), solarize_add),
    **{
        name: (
            lambda level, sign: 1.0 + sign * level / 10 * 0.9,
            lambda image, x, enhance=enhance: enhance(image).enhance(x),
        )
        for name, enhance in [
            ("Color", ImageEnhance.Color),
            ("Contrast", ImageEnhance.Contrast),
            ("Brightness", ImageEnhance.Brightness),
            ("Sharpness", ImageEnhance.Sharpness),
        ]
    },
    "ShearX": (
        lambda level, sign: sign * level / 10 * 0.3,
        lambda image, x: affine(lambda _: (1, x, 0, 0, 1, 0))(image),
    ),
    "ShearY": (
        lambda level, sign: sign * level / 10 * 0.3,
        lambda image, x: affine(lambda _: (1, 0, 0, x, 1, 0))(image),
    ),
    "TranslateX": (
        lambda level, sign: sign * level / 10 * 0.45,
        lambda image, x: affine(lambda im: (1, 0, x * im.size[0], 0, 1, 0))(image),
    ),
    "TranslateY": (
        lambda level, sign: sign * level / 10 * 0.45,
        lambda image, x: affine(lambda im: (1, 0, 0, 0, 1, x * im.size[1]))(image),
    ),
}


def picture(width, height):
    """Smooth colours with an edge and some noise: 30 to 220, so that a stretch of the range changes it."""
    noise = random.Random(width * 1000 + height)
    image = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            edge = 40 if x + 2 * y > width else 0
            values = (30 + 120 * x // width + edge, 40 + 110 * y // height, 200 - 90 * (x + y) // (width + height) - edge)
            image.putpixel((x, y), tuple(max(0, min(255, v + noise.randint(-9, 9))) for v in values))
    return image


def main():
    index, data = [], bytearray()

    def add(entry, image):
        width, height = image.size
        index.append({**entry, "width": width, "height": height, "offset": len(data)})
        data.extend(image.tobytes())

    for size in [(19, 14), (11, 23)]:
        own = picture(*size)
        add({"name": "Picture"}, own)
        for name, (argument, operation) in OPERATIONS.items():
            # Without an argument there is one result.
            levels = [0] if argument is None else [0, 2.5, 5, 7.3, 10]
            signs = [1] if argument is None or name == "SolarizeAdd" else [1, -1]
            for level in levels:
                for sign in signs:
                    value = 0 if argument is None else argument(level, sign)
                    add({"name": name, "argument": value}, operation(own, value))
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(entry) for entry in index)
    header = f'{{"pillow": "{PIL.__version__}", "entries": [\n{text}\n]}}\n'
    (FOLDER / "vectors.json").write_text(header)
    (FOLDER / "vectors.bin").write_bytes(bytes(data))


if __name__ == "__main__":
    main()
