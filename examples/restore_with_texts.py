"""Has the mini look at a photograph, puts your words in the place of what it says is there, and restores it with them.

    python restore_with_texts.py moose.png "a moose in tall grass"      # writes moose_x4.png and moose_x4.json

The JSON file is the record: texts, settings, seed, model, versions and seconds.
"""

import json
import sys
from pathlib import Path

from xpsr import Prior, Restorer, describe, write_image


def main(photo: Path, content: str) -> None:
    (said,) = describe(photo)
    print(f"the describer: {said.content or '(nothing)'}; {said.quality}")
    restored = Restorer("mini").restore(photo, Prior(content=content, quality=said.quality))
    result = photo.with_name(f"{photo.stem}_x4.png")
    write_image(result, restored.picture)
    record = json.dumps(restored.record, indent=2, ensure_ascii=False)
    result.with_suffix(".json").write_text(record + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
