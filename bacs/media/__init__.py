"""Pictures of a run and the measurements behind them: predictions, prototypes, drift, confusion, background shift."""

from bacs.media.animation import Frame, animate
from bacs.media.folder import save_picture
from bacs.media.media import Media

__all__ = ["Frame", "Media", "animate", "save_picture"]
