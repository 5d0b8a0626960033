"""Masks in three dimensions after FaceX-Zoo's FMA-3D: a mask's texture on the mesh of a face, drawn with a z-buffer."""

from facex.data.masking_fma.assets import MeshMask
from facex.data.masking_fma.landmarks import face_box, landmarks_106_to_68
from facex.data.masking_fma.render import render_mesh
from facex.data.masking_fma.texture import Randoms, masked_texture, vary

__all__ = ["MeshMask", "Randoms", "face_box", "landmarks_106_to_68", "masked_texture", "render_mesh", "vary"]
