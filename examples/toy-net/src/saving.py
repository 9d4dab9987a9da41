from pathlib import Path

from PIL import Image


def save(folder, label, number, image):
    pixels = ((image.detach().cpu() * 0.25 + 0.5).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(Path(folder) / f"{label}-{number}.png")
