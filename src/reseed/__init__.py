"""reseed: do the features of a sparse autoencoder survive a reseed?"""

import atexit
import gc
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from types import TracebackType

from reseed import _saelens_hook

# The packages whose versions can change a number.
NUMERIC_PACKAGES = (
    "numba", "numpy", "safetensors", "sae-bench", "sae-lens", "scikit-learn", "scipy", "torch", "transformer-lens",
)  # fmt: skip


# Before torch is imported. Its threads and those of the kernels are two pools of libgomp, which by default spin for
# milliseconds on the cores that the other needs next; without any spinning, waking them costs as much as their work.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

INTERRUPTED = "interrupted: nothing half-made was left, `dvc repro` continues from here"


class ReseedError(Exception):
    """Bad input or a refused result: one sentence that names the file or key, what was found, and what is allowed."""


def installed_version(name: str) -> str | None:
    """The installed version of a distribution without its local part (+cpu), or None."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def check_interpreter(lock: Path) -> None:
    """Raise ReseedError unless the packages that make the numbers are those of the lock."""
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))
    for name in NUMERIC_PACKAGES:
        found = installed_version(name)
        if found != pinned[name]:
            raise ReseedError(
                f"{sys.executable}: found {name} {found or 'not installed'}, allowed: {pinned[name]} ({lock.name}); "
                "use `make repro`, or first `source .venv/bin/activate`"
            )


def _stop_in_one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a stage says to Ctrl-C, also while it still imports; any other exception keeps its traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{INTERRUPTED}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# At its end Python would look once more through all that was imported for what it can free, which takes seconds.
atexit.register(gc.freeze)

if Path(sys.argv[0]).parent.name == "stages":
    sys.excepthook = _stop_in_one_sentence

# Here and not in a stage, because with a foreign interpreter the first import of torch would already fail.
_lock = Path(__file__).parents[2] / "requirements.lock"
if _lock.is_file():
    try:
        check_interpreter(_lock)
    except ReseedError as error:
        sys.exit(f"error: {error}")

_saelens_hook.install()
