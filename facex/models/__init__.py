"""Backbones: plain modules, images in and embeddings out, by name through a registry."""

from facex.models.checkpointing import checkpointed
from facex.models.identify import Identified, identify_backbone
from facex.models.registry import (
    Backbone,
    BackboneInfo,
    backbone_names,
    create_backbone,
    describe_backbone,
    get_backbone,
    measure_backbone,
    register_backbone,
)

__all__ = [
    "Backbone",
    "BackboneInfo",
    "Identified",
    "backbone_names",
    "checkpointed",
    "create_backbone",
    "describe_backbone",
    "get_backbone",
    "identify_backbone",
    "measure_backbone",
    "register_backbone",
]
