"""page.py: a page of text, tables and pictures, as Markdown and as HTML that opens offline.

report.py says what stands on it, this file how it looks. The HTML needs no script, no other file.
"""
import base64
import contextlib
import html
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

import jobs


# ---- Charts, as SVG

COLOURS = ["#0b6e8f", "#c4571b", "#6a8a1f", "#7a4fa3"]


def svg(title, parts, height):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 {height}" width="360" '
            'font-family="system-ui,sans-serif" font-size="12" fill="#555">'
            f"{text(6, 16, title, colour='#111')}{''.join(parts)}</svg>")


def text(x, y, words, anchor="start", colour="#555"):
    words = html.escape(str(words))
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def line_chart(title, x_label, series):
    """series: [(name, xs, ys), ...]"""
    xs = np.concatenate([x for _, x, _ in series])
    ys = np.concatenate([y for _, _, y in series])
    left, bottom = xs.min(), ys.min()
    width, height = max(np.ptp(xs), 1e-2), max(np.ptp(ys), 1e-3)

    parts = [text(197, 212, x_label, "middle")]
    for share in (0, 0.5, 1):
        y = 180 - 150 * share
        parts.append(f'<path d="M50 {y}H344" stroke="#ddd"/>')
        parts.append(text(46, y + 4, f"{bottom + share * height:.3g}", "end"))
        parts.append(text(50 + 294 * share, 196, f"{left + share * width:,g}", "middle"))
    for k, (name, x, y) in enumerate(series):
        colour = COLOURS[k % 4]
        across = 50 + 294 * (np.array(x) - left) / width
        up = 180 - 150 * (np.array(y) - bottom) / height
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(50 + 75 * (k % 4), 230 + 16 * (k // 4), name, colour=colour))
    return svg(title, parts, 240 + 16 * ((len(series) - 1) // 4))


def interval_chart(title, rows):
    """rows: {label: [value, low, high]}, from -1 to 1.5, beside lines at 0 and 1."""
    bottom = 34 + 36 * len(rows)
    parts = []
    for mark in (0, 1):
        x = 216 + 86 * mark
        parts.append(f'<path d="M{x} 24V{bottom}" stroke="#999" stroke-dasharray="3"/>')
        parts.append(text(x, bottom + 16, mark, "middle"))
    for k, (label, interval) in enumerate(rows.items()):
        y = 46 + 36 * k
        x, low, high = 216 + 86 * np.clip(interval, -1, 1.5)
        parts.append(text(122, y + 4, label, "end"))
        parts.append(text(122, y + 19, "{:.2f} [{:.2f}, {:.2f}]".format(*interval), "end"))
        parts.append(f'<path d="M{low:.0f} {y}H{high:.0f}" stroke="#0b6e8f" stroke-width="3"/>')
        parts.append(f'<circle cx="{x:.0f}" cy="{y}" r="5" fill="#0b6e8f"/>')
    return svg(title, parts, bottom + 24)


# ---- The page, as Markdown

class Page:
    """Blocks of Markdown for place.md; its pictures are files of the folder `place`."""

    def __init__(self, place):
        self.place = place
        self.blocks = []
        self.add = self.blocks.append
        self.charts = 0

    def table(self, rows):
        """rows: [{column: cell}, ...]"""
        header = rows[0].keys()
        lines = []
        for cells in (header, ["---"] * len(header), *(row.values() for row in rows)):
            cells = [re.sub(r"[|<>\n]", " ", str(cell)) for cell in cells]
            lines.append(f"| {' | '.join(cells)} |")
        self.add("\n".join(lines))

    def pictures(self, shown):
        """A row of [(caption, chart as SVG or path of a job's PNG), ...]; each becomes a file."""
        lines = []
        for caption, picture in shown:
            if isinstance(picture, str):
                self.charts += 1
                name, content = f"{self.charts:03d}.svg", picture.encode()
            else:
                name, content = "-".join(picture.with_suffix(".jpg").parts[-3:]), jpeg(picture)
            with jobs.replacing(self.place / name) as file:
                file.write(content)
            caption = re.sub(r"[\[\]<>\n]", " ", caption)
            lines += [f"![{caption}]({self.place.name}/{name})", caption]
        self.add("\\\n".join(lines))                # a backslash breaks a line

    def html(self):
        return "\n".join([HEAD, *(to_html(block, self.place.parent) for block in self.blocks)])


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def jpeg(path):
    """A PNG as JPEG, at most 1,040 px wide: a fifth of its size."""
    buffer = io.BytesIO()
    with contextlib.suppress(OSError):              # a damaged or missing picture stays empty
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((1040, 1040))
        picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# ---- From Markdown to HTML

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Do GAN images help?</title><style>
body{margin:0 auto;max-width:960px;padding:12px;font:16px/1.5 system-ui,sans-serif;color:#1d2129}
h1+p{font-size:1.2rem}h2{margin-top:2.5em;border-top:1px solid #ddd}
.scroll{overflow-x:auto;margin:1em 0}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.3em .8em .3em 0;border-bottom:1px solid #e3e6ea;text-align:left;vertical-align:top}
tr>:first-child{position:sticky;left:0;background:#fff;min-width:3.5em;max-width:38vw}
code,tr>:first-child{overflow-wrap:anywhere}
.row{display:flex;flex-wrap:wrap;gap:14px}figure{margin:.5em 0;max-width:460px}
img{max-width:100%;height:auto}figcaption{color:#555;font-size:.85rem}
</style>"""


def inline(words):
    """Escaped text with **bold**, *italics* and `code`."""
    words = html.escape(words, quote=False)
    words = re.sub(r"`(.+?)`", r"<code>\1</code>", words)
    words = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", words)
    return re.sub(r"(?<!\w)\*(\w[^*]*)\*", r"<i>\1</i>", words)


def to_html(block, folder):
    """One block of our Markdown. Every string is escaped; pictures are embedded."""
    lines = block.splitlines()
    if block.startswith("|"):
        rows = []
        for tag, line in zip(["th", *["td"] * len(lines)], [lines[0], *lines[2:]]):
            cells = [f"<{tag}>{inline(cell)}</{tag}>" for cell in cells_of(line)]
            rows.append(f"<tr>{''.join(cells)}</tr>")
        return f'<div class="scroll"><table>{"".join(rows)}</table></div>'
    if block.startswith("!["):
        shown = []
        for caption, path in re.findall(r"!\[(.*)\]\((.*)\)", block):
            kind = {".svg": "svg+xml", ".jpg": "jpeg"}[Path(path).suffix]
            content = base64.b64encode((folder / path).read_bytes()).decode()
            image = f'<img alt="{html.escape(caption)}" src="data:image/{kind};base64,{content}">'
            shown.append(f"<figure>{image}<figcaption>{inline(caption)}</figcaption></figure>")
        return f'<div class="row">{"".join(shown)}</div>'
    if block.startswith("- "):
        items = [f"<li>{inline(line[2:])}</li>" for line in lines]
        return f"<ul>{''.join(items)}</ul>"
    if block.startswith("#"):
        marks, _, words = block.partition(" ")
        return f"<h{len(marks)}>{inline(words)}</h{len(marks)}>"
    return f"<p>{inline(' '.join(lines))}</p>"
