"""Restores the photographs of a folder with one model, says how far each is, and goes on after one that cannot be read.

    python folder_with_progress.py photos/ restored/      # Ctrl-C stops it within a tile

It shows how a program of yours would do it; `xpsr upscale photos/ -o restored/` does it with all that is around it.
"""

import signal
import sys
import threading
from pathlib import Path

from xpsr import Cancelled, Restorer, XPSRError, write_image


def main(folder: Path, out: Path, stop: threading.Event) -> int:
    restorer, exit_code = Restorer("mini"), 0
    out.mkdir(parents=True, exist_ok=True)
    for photo in sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png")):

        def tell(done: int, total: int, name: str = photo.name) -> None:
            print(f"{name}: {done} of {total}", end="\n" if done == total else "\r", flush=True)

        try:
            restored = restorer.restore(photo, progress=tell, is_cancelled=stop.is_set)
            write_image(out / f"{photo.stem}_x4.png", restored.picture)
        except Cancelled:
            return 130
        except XPSRError as error:
            print(error, file=sys.stderr)
            exit_code = 1
    return exit_code


if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), stop))
