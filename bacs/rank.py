"""``python -m bacs.rank TASK RANK``: one of several local ranks; started by `bacs.launch`, never by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from bacs.launch import follow

if __name__ == "__main__":
    sys.exit(follow(Path(sys.argv[1]), int(sys.argv[2])))
