"""The compiled part of the data path."""

from __future__ import annotations

from types import ModuleType


def native() -> ModuleType:
    """`facex._C`; raises ExtensionError naming the build command when it is missing or was built for another torch."""
    from facex.ops.extension import extension

    return extension()


def jpeg_backend() -> str:
    """What decodes ordinary JPEG: "libjpeg-turbo 2.1.5", or "opencv" where the headers were missing at build time."""
    return str(native().jpeg_backend())
