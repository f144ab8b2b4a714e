"""Gives a model a second way to decode: `python scripts/add_fidelity.py MODEL FAITHFUL OUT`.

OUT is MODEL, with the difference of its decoder to that of FAITHFUL beside it: `settings.fidelity` 0 is MODEL as it
is, 1 is FAITHFUL's decoder alone, and between them lies what lies between their weights. FAITHFUL is an earlier state
of the same training, from before an adversary took part, or what was trained on from there without one.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file

from xpsr import XPSRPipeline
from xpsr.models import DeepHaarAutoencoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("faithful", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out}: exists; name a new folder")
    for folder in (args.model, args.faithful):
        if not (folder / "model_index.json").is_file():
            parser.error(f"{folder}: no model_index.json there")
    weights = next((args.model / "vae").glob("*.safetensors"))
    dtype = next(iter(load_file(weights).values())).dtype  # as it is stored, so it is again
    pipe, other = (XPSRPipeline.from_pretrained(folder, dtype=dtype) for folder in (args.model, args.faithful))
    if not isinstance(pipe.vae, DeepHaarAutoencoder) or not isinstance(other.vae, DeepHaarAutoencoder):
        parser.error("only the decoder of a DeepHaarAutoencoder knows a second way")
    pipe.register_modules(vae=with_fidelity(pipe.vae, other.vae))
    pipe.save_pretrained(args.out)
    print(args.out)


def with_fidelity(vae: DeepHaarAutoencoder, faithful: DeepHaarAutoencoder) -> DeepHaarAutoencoder:
    """Returns `vae` with the weights of another one's decoder as its faithful way."""
    both = DeepHaarAutoencoder.from_config(vae.config, with_fidelity=True).to(vae.dtype)
    both.decoder.load_state_dict(vae.decoder.state_dict())
    both.set_faithful_weights(faithful.decoder.state_dict())
    return both.eval()


if __name__ == "__main__":
    main()
