"""XPSR in ComfyUI: load a model, describe pictures, restore them. See README.md."""

from .nodes import Describe, LoadModel, Restore

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

NODE_CLASS_MAPPINGS = {"XPSRLoadModel": LoadModel, "XPSRDescribe": Describe, "XPSRRestore": Restore}
NODE_DISPLAY_NAME_MAPPINGS = {
    "XPSRLoadModel": "XPSR Load Model",
    "XPSRDescribe": "XPSR Describe",
    "XPSRRestore": "XPSR Restore",
}
