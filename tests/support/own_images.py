"""Folders of images as a user has them: shapes on coloured ground, of several sizes and formats."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "square")


def write_photos(root: Path, *, count: int = 12, classes: tuple[str, ...] = SHAPES, first: int = 0) -> Path:
    """Write `count` images of each class into `root/<class>/`, from the number `first` on; return the root."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            suffix = ("jpg", "png", "webp")[number % 3]
            draw_shape(name, number).save(root / name / f"{number:03d}.{suffix}")
    return root


def draw_shape(kind: str, number: int) -> Image.Image:
    """Return the image of that number of a class, a little larger than 24 pixels."""
    chance = random.Random(f"{kind} {number}")
    size = chance.choice([(40, 30), (30, 40), (32, 32)])
    image = Image.new("RGB", size, _colour(chance, 0, 110))
    draw, (x, y), r = ImageDraw.Draw(image), (size[0] // 2, size[1] // 2), chance.randrange(7, 12)
    box, colour = (x - r, y - r, x + r, y + r), _colour(chance, 130, 255)
    if kind == "circle":
        draw.ellipse(box, fill=colour)
    elif kind == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.line((x - r, y, x + r, y), fill=colour, width=4)
        draw.line((x, y - r, x, y + r), fill=colour, width=4)
    return image


def _colour(chance: random.Random, least: int, most: int) -> tuple[int, int, int]:
    return chance.randint(least, most), chance.randint(least, most), chance.randint(least, most)
