"""Backbones: plain modules, images in and embeddings out, by name through a registry."""

from facex.models.checkpointing import checkpointed
from facex.models.registry import (
    Backbone,
    BackboneInfo,
    backbone_names,
    create_backbone,
    describe_backbone,
    get_backbone,
    register_backbone,
)

__all__ = [
    "Backbone",
    "BackboneInfo",
    "backbone_names",
    "checkpointed",
    "create_backbone",
    "describe_backbone",
    "get_backbone",
    "register_backbone",
]
