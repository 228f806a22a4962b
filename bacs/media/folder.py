"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bacs.atomic import replacing
from bacs.events import Picture


def save_picture(folder: Path, picture: Picture) -> Path:
    """Writes ``<folder>/step-<t>/<name>.png``, whole or not at all, over the one of an earlier attempt."""
    path = folder / f"step-{picture.step}" / f"{picture.name}.png"
    with replacing(path) as draft:
        Image.fromarray(picture.image).save(draft, format="PNG")
    return path
