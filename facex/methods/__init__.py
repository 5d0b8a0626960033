"""The interface between a method and the Trainer (`Method`, `Update`, ...) and the discovery of plugins."""

from facex.methods.batch import Batch, Field
from facex.methods.method import Context, Method
from facex.methods.spec import (
    Embedding,
    Format,
    Frozen,
    Group,
    HeadSpec,
    InputSpec,
    LoadReport,
    Schedule,
    Source,
    Update,
    Visuals,
)

__all__ = [
    "Batch",
    "Context",
    "Embedding",
    "Field",
    "Format",
    "Frozen",
    "Group",
    "HeadSpec",
    "InputSpec",
    "LoadReport",
    "Method",
    "Schedule",
    "Source",
    "Update",
    "Visuals",
]
