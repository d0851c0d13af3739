"""Things for tests to find in a tree."""

import os
import socket
import stat
import tempfile
from pathlib import Path


def unix_socket(path: Path | bytes) -> None:
    """A socket at ``path``, which may be longer than a socket's name."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.fsencode(path)).decode()) as folder:
        here = os.getcwd()
        os.chdir(folder)
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("s")
        finally:
            os.chdir(here)
        os.rename(os.path.join(folder, "s"), path)


def device(path: Path | bytes) -> bool:
    """Try to make a character device (as /dev/zero) at ``path``."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except OSError:
        return False
    return True
