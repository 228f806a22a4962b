"""Pictures of a run and the measurements behind them: predictions, prototypes, drift of the features."""

from bacs.media.folder import save_picture
from bacs.media.media import Media

__all__ = ["Media", "save_picture"]
