"""What the machinery of a batch costs: `python -m benchmarks.batch [--pictures N] [--planned N]`.

Restores the same small pictures with the mini in a bare loop, by a crew of this process, and by one and two processes,
in turn; then plans a list of a million pictures, and resumes it. The seconds of a crew are those from its first picture
that is done to its last, so that nobody's start is in them.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from benchmarks.combinations import PICTURE
from xpsr.batch.crew import Crew
from xpsr.batch.inline import Inline
from xpsr.batch.inputs import plan_items
from xpsr.batch.items import Item, Order
from xpsr.batch.ledger import Ledger
from xpsr.batch.processes import ProcessCrew
from xpsr.batch.restoring import restore_file
from xpsr.batch.runner import Event, run
from xpsr.config import UpscaleConfig
from xpsr.model_files import fetch_model
from xpsr.prior import PriorLookup
from xpsr.records import Recipe
from xpsr.restore import Restorer
from xpsr.sources import Job, Source

SIDE = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60, help=f"of {SIDE} x {SIDE} (default: 60)")
    parser.add_argument("--planned", type=int, default=1_000_000, help="sources of the list (default: 1,000,000)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.pictures:
        measure_work(args.pictures)
    if args.planned:
        measure_plan(args.planned)


def measure_work(count: int) -> None:
    """Prints how many seconds a picture takes, by who works."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = [save_crop(folder, number) for number in range(count)]
        order = Order(
            config=UpscaleConfig(), describer="mini", describer_name="mini", out=str(folder / "out"), device="cpu"
        )
        bare = bare_loop(items, folder / "bare")
        print(f"bare loop      {bare:.4f} s a picture")
        crews: dict[str, Callable[[], Crew]] = {
            "inline": lambda: Inline(order),
            "one process": lambda: ProcessCrew([order]),
            "two processes": lambda: ProcessCrew([order, order]),
        }
        for who, make in crews.items():
            seconds = by_crew(items, make(), folder / f"{who}.sqlite", folder / "out")
            print(f"{who:14} {seconds:.4f} s a picture, {seconds / bare:.3f} of the bare loop's")
        again = bare_loop(items, folder / "again")
        print(f"bare loop      {again:.4f} s a picture, {again / bare:.3f}")


def save_crop(folder: Path, number: int) -> Item:
    """Saves one of the pictures."""
    path = folder / "in" / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    left, top = number % 80, number * 7 % 80
    with Image.open(PICTURE) as image:
        image.crop((left, top, left + SIDE, top + SIDE)).save(path)
    return Item(id=path.name, source=str(path), target=path.name, seed=1)


def bare_loop(items: list[Item], out: Path) -> float:
    """Returns the seconds that a picture takes which is restored into a file, after the first."""
    restorer, prior_of = Restorer("mini", device="cpu", dtype="fp32"), PriorLookup("mini", device="cpu")
    recipe = Recipe(config=UpscaleConfig(seed=1), describer="mini", folder=fetch_model("mini"))
    start = 0.0
    for number, item in enumerate(items):
        job = Job(source=Source(path=Path(item.source)), target=out / item.target)
        restore_file(restorer, job, prior_of, recipe)
        if number == 0:
            start = time.perf_counter()
    return (time.perf_counter() - start) / (len(items) - 1)


def by_crew(items: list[Item], crew: Crew, path: Path, out: Path) -> float:
    """Returns the seconds that a picture takes by a crew, from the first that is done to the last."""
    times: list[float] = []

    def on_event(event: Event) -> None:
        times.append(time.perf_counter())
        Path(out, event.ticket.item.target).unlink()  # the next crew makes it again

    with Ledger(path) as ledger:
        ledger.plan(items)
        run(ledger, crew, on_event=on_event)
    crew.close()
    return (times[-1] - times[0]) / (len(times) - 1)


def measure_plan(count: int) -> None:
    """Prints what it takes to plan a list, and to take it up again."""
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name, "list.jsonl")
        with sources.open("w") as file:
            for number in range(count):
                place = f"s3://bucket/photos/{number // 1000:04}/IMG_{number:07}.jpg"
                file.write(json.dumps({"source": place, "seed": number}) + "\n")
        for what in ("planned", "planned again"):
            start = time.perf_counter()
            with Ledger(Path(name, "out", "ledger.sqlite")) as ledger:
                ledger.recover()
                ledger.plan(plan_items([str(sources)], out="s3://bucket/out", on_error=print, on_note=print))
                first = ledger.waiting(limit=500)
                tally = ledger.tally()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            size = sum(path.stat().st_size for path in Path(name, "out").iterdir()) / 2**20
            seconds = time.perf_counter() - start
            print(f"{what}: {tally.waiting:,} in {seconds:.1f} s, peak {peak:,.0f} MiB, ledger {size:,.0f} MiB")
            assert len(first) == min(500, count)


if __name__ == "__main__":
    main()
