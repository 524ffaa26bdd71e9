"""An environment for each peer, so that what one needs does not change what another or geosod gets.

Environments see the packages of the one that geosod is installed in, torch above all, wherever their own pins do not
put others before them.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from benchmarks.options import UnavailableError
from benchmarks.processes import ROOT

#: Git ignores it.
FOLDER = ROOT / ".peers"
REQUIREMENTS = Path(__file__).parent / "requirements"


def peers() -> tuple[str, ...]:
    """Names of the environments."""
    return tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment.

    Raises:
        UnavailableError: it was not set up.
    """
    found = _python_in(FOLDER / peer)
    if not found.exists():
        raise UnavailableError(f"{peer} is not installed: run `python -m benchmarks peers --setup`")
    return found


def set_up() -> int:
    """Make every environment, or update it; returns the number of those that failed, after saying why."""
    failed = 0
    for peer in peers():
        print(f"== {peer}", flush=True)
        failed += not layered(FOLDER / peer, REQUIREMENTS / f"{peer}.txt")
    return failed


def layered(folder: Path, pins: Path) -> bool:
    """Make an environment over this one, or update it, and install pins into it; returns whether that worked."""
    venv.create(folder, with_pip=True, symlinks=sys.platform != "win32")
    python = _python_in(folder)
    purelib = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = subprocess.run([python, "-c", purelib], check=True, capture_output=True, text=True).stdout.strip()
    # Paths in such a file come after the environment's own packages.
    (Path(own) / "geosod.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
    if subprocess.run(install, check=False).returncode:
        print(f"{pins} could not be installed into {folder}", flush=True)
        return False
    return True


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


if __name__ == "__main__":
    # python -m benchmarks.peers.environments FOLDER REQUIREMENTS
    sys.exit(not layered(*map(Path, sys.argv[1:])))
