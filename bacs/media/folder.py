"""Pictures as files."""

from __future__ import annotations

import uuid
from pathlib import Path

from PIL import Image

from bacs.events import Picture


def save_picture(folder: Path, picture: Picture) -> Path:
    """Writes ``<folder>/step-<t>/<name>.png``, whole or not at all, over the one of an earlier attempt."""
    path = folder / f"step-{picture.step}" / f"{picture.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    Image.fromarray(picture.image).save(staging, format="PNG")
    return staging.replace(path)
