"""Python imports this at the start of every process that finds it on its path (`site` module)."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("powercut_recording", Path(__file__).parent.parent / "recording.py")
if _SPEC is not None and _SPEC.loader is not None:
    _recording = importlib.util.module_from_spec(_SPEC)
    _SPEC.loader.exec_module(_recording)
    _recording.install_from_environment()
