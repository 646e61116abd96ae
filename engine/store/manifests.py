"""What a run says of itself."""

import json
from pathlib import Path
from typing import Any

from engine.errors import InputFileError
from engine.store.files import decode_text, read_source


def read_manifest(folder: Path, *commands: str) -> dict[str, Any]:
    """The ``manifest.json`` of a run that a command wrote with ``--out``.

    Args:
        folder: Folder of the run, ``<out>/adhoc/<as_of>-<N>``.
        commands: The commands that may have written it, at least one.

    Raises:
        InputFileError: no manifest there, or not one of those commands.
    """
    path, wanted = folder / "manifest.json", " or ".join(commands)
    if not path.exists():
        raise InputFileError(
            f"{wanted} run: no manifest.json in {folder}; give the folder that engine {wanted} --out named as written"
        )
    try:
        manifest = json.loads(decode_text(read_source(path, "manifest.json")))
        found = str(manifest["command"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputFileError(f"{path}: not the manifest of a run; run engine {wanted} --out again") from None
    if found not in commands:
        raise InputFileError(f"{path}: a run of engine {found}, not of engine {wanted}; give a folder of the latter")
    return dict(manifest)
