"""The report's HTML: one page, pictures inside it, no scripts, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

_CSS = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:#f5f6f8;color:#1d2530;
  font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;margin:0 0 4px}
h2{font-size:18px;margin:36px 0 12px}
p.note{color:#5b6573;margin:0 0 12px;max-width:100ch}
dl{display:flex;flex-wrap:wrap;gap:4px 28px;margin:10px 0 0;color:#5b6573;font-size:13px}
dl div{display:flex;gap:6px}dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
.card{background:#fff;border:1px solid #e3e6ea;border-radius:10px;padding:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:14px;margin-top:22px}
.tile b{display:block;font-size:28px;line-height:1.2}.tile span{color:#5b6573;font-size:13px}
.scroll{overflow-x:auto;padding:0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:8px 14px;text-align:right;border-bottom:1px solid #eceef1;white-space:nowrap}
th{font-size:13px;color:#5b6573;font-weight:600}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}
tr.trained td{font-weight:600}tr:last-child td{border-bottom:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:14px}
.charts img{width:100%;height:auto;display:block}
.card+.card,.charts+.card{margin-top:14px}
.charts .card,.tiles .card{margin-top:0}
.faces{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
.faces.one{grid-template-columns:repeat(auto-fill,minmax(84px,1fr))}
.faces.wide{grid-template-columns:repeat(auto-fill,minmax(300px,1fr))}
figure{margin:0}figure img{width:100%;height:auto;display:block;border-radius:6px}
figcaption{color:#5b6573;font-size:12px;margin-top:3px;font-variant-numeric:tabular-nums}
footer{margin-top:40px;color:#8a93a0;font-size:13px}
"""


def escape(text: object) -> str:
    """`text` as HTML text."""
    return html.escape(str(text))


def image(png: bytes, alt: str) -> str:
    """An <img> that carries its PNG."""
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def charts(items: Iterable[tuple[bytes, str]]) -> str:
    """(PNG, description) side by side, each on a card."""
    return (
        '<div class="charts">' + "".join(f'<div class="card">{image(png, alt)}</div>' for png, alt in items) + "</div>"
    )


def faces(items: Iterable[tuple[bytes, str]], single: bool = False, wide: bool = False) -> str:
    """(PNG, caption) as a gallery; `single` for one face a picture, `wide` for three or more, else two."""
    kind = " one" if single else " wide" if wide else ""
    figures = "".join(
        f"<figure>{image(png, caption)}<figcaption>{escape(caption)}</figcaption></figure>" for png, caption in items
    )
    return f'<div class="card"><div class="faces{kind}">{figures}</div></div>'


def table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table; each row is (CSS class, cells)."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f'<tr class="{escape(kind)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for kind, cells in rows
    )
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def tiles(items: Iterable[tuple[str, str]]) -> str:
    """(number, what it is) as large tiles."""
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="card tile"><b>{escape(number)}</b><span>{escape(what)}</span></div>' for number, what in items
        )
        + "</div>"
    )


def section(title: str, note: str, *parts: str) -> str:
    """A headed section with a line that says how to read it."""
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>{"".join(parts)}</section>'


def page(title: str, facts: Iterable[tuple[str, str]], parts: Iterable[str], footer: str) -> str:
    """The whole page."""
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><dl>{listed}</dl></header>{''.join(parts)}"
        f"<footer>{escape(footer)}</footer></main></body></html>\n"
    )
