"""Uploads a model to the Hugging Face hub: `python scripts/push_to_hub.py OWNER/NAME [--private] [--dry-run]`.

Only a whole model goes there: its weights are those that checksums.json names, nothing foreign lies beside them, git
knows of no change, the card has what the hub asks for, and it loads. What an earlier model has left behind there is
removed in the same commit. `hf auth login` or HF_TOKEN says who you are.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from xpsr import ModelError, Restorer, XPSRError, __version__
from xpsr.errors import brief
from xpsr.model_files import CHECKSUMS, checksums, read_json, resolve_model

CARD = {"license": None, "library_name": "diffusers", "pipeline_tag": "image-to-image"}
"""What a card's front matter says at least; None: anything."""

PATTERNS = ("*.json", "*.safetensors", "*.txt")
"""Files of a model, beside its card."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", metavar="OWNER/NAME", help="where to; made if it is not there")
    parser.add_argument("--model", default="mini", help="a model's folder (default: the mini)")
    parser.add_argument("--private", action="store_true", help="a new one is seen by nobody else")
    parser.add_argument("--dry-run", action="store_true", help="say what would be uploaded, and ask nobody")
    args = parser.parse_args()
    try:
        folder = Path(resolve_model(args.model))
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.repository) or not folder.is_dir():
            parser.error("the hub wants OWNER/NAME, and the model is a folder")
        files = checked_files(folder)
        for path in files:
            print(f"{path.stat().st_size / 1e6:9.3f} MB  {path.relative_to(folder).as_posix()}")
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        print(f"{megabytes:9.3f} MB  in {len(files)} files of {folder}, to {args.repository}")
        if args.dry_run:
            return 0
        api = HfApi()
        api.create_repo(args.repository, private=args.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=args.repository,
            folder_path=folder,
            commit_message=f"{folder.name}, of xpsr {__version__}",
            allow_patterns=[path.relative_to(folder).as_posix() for path in files],
            delete_patterns=list(PATTERNS),
        )
    except (XPSRError, HFValidationError, HfHubHTTPError, OSError) as error:
        print(f"push_to_hub: {error if isinstance(error, XPSRError) else brief(error)}", file=sys.stderr)
        return 1
    print(commit.commit_url)
    return 0


def checked_files(folder: Path) -> list[Path]:
    """Returns the files of a model's folder.

    Raises:
        ModelError: it is not whole, or more than a model.
    """
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    foreign = [path for path in files if path.name != "README.md" and not any(path.match(one) for one in PATTERNS)]
    if foreign:
        raise ModelError(f"{foreign[0]}: is no file of a model", code="unknown_field", remedy="move it away")
    named, found = read_json(folder / CHECKSUMS), checksums(folder)
    for name in sorted(named.keys() | found.keys()):
        if named.get(name) != found.get(name):
            remedy = "install or export the model again"
            raise ModelError(f"{folder / name}: is not what {CHECKSUMS} says", code="damaged", remedy=remedy)
    try:
        data = ModelCard.load(folder / "README.md").data.to_dict()
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'README.md'}: is no card ({brief(error)})", code="damaged") from error
    for key, wanted in CARD.items():
        if data.get(key) is None or wanted not in (None, data[key]):
            remedy = f"write {key}: {wanted or 'apache-2.0, for example'} into its front matter"
            raise ModelError(f"{folder / 'README.md'}: {key} is {data.get(key)}", code="damaged", remedy=remedy)
    git = ["git", "-C", str(folder), "diff", "--name-only", "HEAD", "--", "."]
    changed = subprocess.run(git, capture_output=True, text=True, check=False)  # elsewhere than in a clone it fails
    if changed.returncode == 0 and changed.stdout:
        message = f"{changed.stdout.splitlines()[0]}: is changed since the last commit"
        raise ModelError(message, code="changed", remedy="commit or restore it")
    Restorer(folder, device="cpu", dtype="fp32")
    return files


if __name__ == "__main__":
    sys.exit(main())
