"""A mesh of flat-coloured triangles through a z-buffer, in array operations; no pixel is left undefined."""

from __future__ import annotations

import numpy as np

from facex.errors import DataError

_CHUNK = 1 << 20  # candidate pixels at a time


def render_mesh(
    vertices: np.ndarray, colors: np.ndarray, triangles: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw triangles: (image float64 [height, width, C], covered bool [height, width]); 0 where nothing is drawn.

    vertices [3, V]: x, y in pixels (centres at integers) and depth, larger is nearer; colors [C, V]; triangles int [3,
    T]. A triangle has the mean depth and the mean colour of its corners. It covers the integer pixels with barycentric
    coordinates u >= 0, v >= 0, u + v < 1 (u, v belong to the third and the second corner); a triangle without area
    covers those of its bounding box. Of two at the same depth the first one is seen.

    Raises:
        DataError: arrays of other shapes, or corners that are not there.
    """
    _check(vertices, colors, triangles)
    corners = vertices[:, triangles.T].transpose(1, 2, 0)  # [T, corner, xyz]
    depth = corners[..., 2].mean(1)
    nearest = np.full(height * width, -np.inf)
    owner = np.full(height * width, -1, np.int64)
    for triangle, x, y in _candidates(corners, height, width):
        inside = _inside(corners[triangle, :, :2], x, y)
        triangle, pixel = triangle[inside], y[inside] * width + x[inside]
        # the farthest first, and of equals the last first: what is written last stays
        order = np.lexsort((-triangle, depth[triangle]))
        triangle, pixel = triangle[order], pixel[order]
        best = np.full(height * width, -1, np.int64)
        best[pixel] = triangle
        seen = best >= 0
        seen[seen] = depth[best[seen]] > nearest[seen]
        owner[seen], nearest[seen] = best[seen], depth[best[seen]]
    covered = owner >= 0
    image = np.zeros((height * width, len(colors)))
    image[covered] = colors[:, triangles].mean(1).T[owner[covered]]
    return image.reshape(height, width, -1), covered.reshape(height, width)


def _check(vertices: np.ndarray, colors: np.ndarray, triangles: np.ndarray) -> None:
    if vertices.ndim != 2 or vertices.shape[0] != 3 or colors.ndim != 2 or colors.shape[1] != vertices.shape[1]:
        raise DataError(f"a mesh has vertices [3, V] and colors [C, V], not {vertices.shape} and {colors.shape}")
    if triangles.ndim != 2 or triangles.shape[0] != 3 or triangles.dtype.kind not in "iu":
        raise DataError(f"triangles are whole numbers [3, T], not {triangles.dtype} {triangles.shape}")
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < vertices.shape[1]):
        raise DataError(f"a triangle names vertex {triangles.max()} of {vertices.shape[1]} (or a negative one)")
    if not np.isfinite(vertices).all():
        raise DataError("a vertex is not finite")


def _candidates(corners: np.ndarray, height: int, width: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(triangle, x, y) of every pixel in a triangle's bounding box, triangles in order, cut into parts."""
    low = np.maximum(np.ceil(corners[..., :2].min(1)), 0).astype(np.int64)
    high = np.minimum(np.floor(corners[..., :2].max(1)), (width - 1, height - 1)).astype(np.int64)
    sides = np.maximum(high - low + 1, 0)
    counts = sides[:, 0] * sides[:, 1]
    ends = np.cumsum(counts)
    parts = []
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _CHUNK, side="right")), start + 1)
        triangle = np.repeat(np.arange(start, stop), counts[start:stop])
        offset = np.arange(len(triangle)) - (ends[triangle] - counts[triangle] - before)
        columns = sides[triangle, 0]
        parts.append((triangle, low[triangle, 0] + offset % columns, low[triangle, 1] + offset // columns))
        start = stop
    return parts


def _inside(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether (x, y) [n] lies in the triangle with corners [n, 3, 2]."""
    first = corners[:, 0]
    to_third, to_second = corners[:, 2] - first, corners[:, 1] - first
    to_point = np.stack([x, y], 1) - first
    dot33, dot32, dot22 = _dot(to_third, to_third), _dot(to_third, to_second), _dot(to_second, to_second)
    dot3p, dot2p = _dot(to_third, to_point), _dot(to_second, to_point)
    area = dot33 * dot22 - dot32 * dot32
    inverse = np.divide(1.0, area, out=np.zeros_like(area), where=area != 0)
    u = (dot22 * dot3p - dot32 * dot2p) * inverse
    v = (dot33 * dot2p - dot32 * dot3p) * inverse
    return (u >= 0) & (v >= 0) & (u + v < 1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1)
