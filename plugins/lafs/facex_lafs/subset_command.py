"""`facex subset SRC OUT`: few-shot subsets of a RecordIO set, with a manifest.

facex subset data/webface4m data/webface4m_1shot --per_identity 1
facex subset data/webface4m_1shot data/webface4m_1shot_1percent --fraction 0.01
"""

from __future__ import annotations

from jsonargparse import ArgumentParser

from facex_lafs.subset import MANIFEST, SubsetOptions, write_subset


def build_parser() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(prog="facex subset", description="Few-shot subsets of a RecordIO set, with a manifest.")
    parser.add_argument("source", type=str, help="RecordIO folder or .rec file")
    parser.add_argument("out", type=str, help="folder for the subset")
    parser.add_class_arguments(SubsetOptions)
    return parser


def main(argv: list[str]) -> int:
    """Write the subset; prints what was kept."""
    options = build_parser().parse_args(argv)
    names = SubsetOptions.__dataclass_fields__
    manifest = write_subset(options.source, options.out, SubsetOptions(**{n: options[n] for n in names}))
    print(
        f"{options.out}: {manifest['records']} of {manifest['source_records']} records, {manifest['identities']} of "
        f"{manifest['source_identities']} identities ({MANIFEST} lists them)"
    )
    return 0
