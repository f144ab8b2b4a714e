"""What both networks need to stand in diffusers' place."""

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["Refusals", "shows_signature_of"]


def shows_signature_of(
    upstream: Callable[..., None], **added: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives an `__init__` the signature that `register_to_config` reads config keys from: upstream's and our own."""
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in added.items()]
    signature = inspect.signature(upstream)

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        init.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *keywords])  # type: ignore[attr-defined]
        return init

    return decorate


class Refusals:
    """What diffusers offers and cannot do on these networks: each says so and names the way instead."""

    def set_attention_backend(self, backend: str) -> None:
        """Raises: this kind of attention does not look at diffusers' back ends."""
        raise NotImplementedError(
            f"set_attention_backend({backend!r}) has no effect on UNets and ControlNets; choose a kernel with"
            " torch.nn.attention.sdpa_kernel or a processor with set_attn_processor."
        )

    def enable_cache(self, config: Any) -> None:
        """Raises: a cache would hand one tile's features to the next."""
        raise NotImplementedError(
            f"{type(config).__name__}: diffusers' caches are made for transformers that see one picture at a time, not"
            " for UNets and tiles; use fewer num_inference_steps, or the setting cache_interval."
        )
