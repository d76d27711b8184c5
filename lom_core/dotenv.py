"""``.env``: the two secrets that a run may need, out of a file that is not committed."""

from __future__ import annotations

import os
import re
from pathlib import Path

SECRETS = ("WANDB_API_KEY", "HF_TOKEN")
LINE = re.compile(r"""\s*(?:export\s+)?(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s#]*))""")


def read_dotenv(folder: Path = Path()) -> None:
    """Set what ``.env`` in the folder says of SECRETS, unless the environment does already.

    Nothing else of it is read. Neither is ever part of a config, a log or a checkpoint.
    """
    path = folder / ".env"
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf8", errors="replace").splitlines():
        found = LINE.match(line)
        if found and found[1] in SECRETS:
            os.environ.setdefault(found[1], next((v for v in found.groups()[1:] if v), ""))
