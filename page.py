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


def ticks(low, high):
    """Two to five round numbers from low to high."""
    size = 10 ** np.floor(np.log10(high - low))
    for step in (size / 5, size / 2, size, 2 * size):
        found = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
        if len(found) <= 5:
            return found.round(12)


def line_chart(title, x_label, series):
    """series: [(name, xs, ys), ...]"""
    xs = np.concatenate([x for _, x, _ in series])
    ys = np.concatenate([y for _, _, y in series])
    x0, x1 = xs.min(), max(xs.max(), xs.min() + 1e-2)
    y0, y1 = ys.min(), max(ys.max(), ys.min() + 1e-3)

    def across(x):
        return 50 + 294 * (x - x0) / (x1 - x0)

    def up(y):
        return 180 - 150 * (y - y0) / (y1 - y0)

    parts = [text(197, 212, x_label, "middle")]
    for tick in ticks(y0, y1):
        parts.append(f'<path d="M50 {up(tick):.0f}H344" stroke="#ddd"/>')
        parts.append(text(46, up(tick) + 4, f"{tick:,g}", "end"))
    for tick in ticks(x0, x1):
        parts.append(text(across(tick), 196, f"{tick:,g}", "middle"))
    for k, (name, x, y) in enumerate(series):
        colour = COLOURS[k % 4]
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(x, y))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(50 + 75 * (k % 4), 230 + 16 * (k // 4), name, colour=colour))
    return svg(title, parts, 240 + 16 * ((len(series) - 1) // 4))


def interval_chart(title, rows):
    """rows: {label: [value, low, high]}, from -1 to 1.5, beside lines at 0 and 1."""
    def across(value):
        return 130 + 86 * (np.clip(value, -1, 1.5) + 1)

    bottom = 34 + 36 * len(rows)
    parts = []
    for mark in (0, 1):
        x = f"{across(mark):.0f}"
        parts.append(f'<path d="M{x} 24V{bottom}" stroke="#999" stroke-dasharray="3"/>')
        parts.append(text(across(mark), bottom + 16, mark, "middle"))
    for k, (label, (value, low, high)) in enumerate(rows.items()):
        y = 46 + 36 * k
        line = f"M{across(low):.0f} {y}H{across(high):.0f}"
        parts.append(text(122, y + 4, label, "end"))
        parts.append(text(122, y + 19, f"{value:.2f} [{low:.2f}, {high:.2f}]", "end"))
        parts.append(f'<path d="{line}" stroke="{COLOURS[0]}" stroke-width="3"/>')
        parts.append(f'<circle cx="{across(value):.0f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>')
    return svg(title, parts, bottom + 24)


# ---- The page, as Markdown

class Page:
    """Blocks of Markdown. Its pictures are files of the folder `out`."""

    def __init__(self, out):
        self.out = Path(out)
        self.blocks = []
        self.charts = 0

    def add(self, words):
        self.blocks.append(words)

    def table(self, rows):
        """rows: [{column: cell}, ...]"""
        header = rows[0].keys()
        lines = []
        for cells in (header, ["---"] * len(header), *(row.values() for row in rows)):
            cells = [re.sub(r"[|<>\n]", " ", str(cell)) for cell in cells]
            lines.append(f"| {' | '.join(cells)} |")
        self.add("\n".join(lines))

    def pictures(self, shown):
        """A row of [(caption, chart as SVG or path of a PNG), ...]; missing ones are left out."""
        lines = []
        for caption, picture in shown:
            if isinstance(picture, str):
                self.charts += 1
                path = self.out / f"charts/{self.charts:03d}.svg"
                with jobs.replacing(path) as file:
                    file.write(picture.encode())
                picture = path
            if picture.exists():
                caption = re.sub(r"[\[\]<>\n]", " ", caption)
                lines.append(f"![{caption}]({picture.relative_to(self.out).as_posix()})")
        self.add("\n".join(lines))

    def html(self):
        return "\n".join([HEAD, *(to_html(block, self.out) for block in self.blocks)])

    def publish(self, place, public):
        """The page as place.md, its pictures in the folder `place`, as SVG and JPEG.

        public: a function of a picture's path: (the path of what may be shown, or None; a line on
        its origin). Of other paths of this machine only the end stays.
        """
        for old in [*place.glob("*.svg"), *place.glob("*.jpg")]:
            old.unlink()
        blocks = []
        for block in self.blocks:
            if block.startswith("!["):
                block = self.publish_pictures(block.splitlines(), place, public)
            blocks.append(re.sub(FOLDERS, "DIR/", block))
        with jobs.replacing(place.with_suffix(".md")) as file:
            file.write("\n\n".join(filter(None, blocks)).encode())

    def publish_pictures(self, lines, place, public):
        shown, origins = [], []
        for caption, path in map(caption_and_path, lines):
            picture, origin = public(self.out / path)
            if not picture:
                continue
            name, raw = picture.name, picture.read_bytes()
            if picture.suffix != ".svg":
                name = path.replace("/", "-").replace(".png", ".jpg")
                raw = jpeg(picture, 520)
            with jobs.replacing(place / name) as file:
                file.write(raw)
            shown.append(f"![{caption}]({place.name}/{name})\\\n{caption}\n")
            origins.append(f"*{origin}.*" if origin else "")
        return "\n".join([*shown, *dict.fromkeys(origins)]).strip()


FOLDERS = r"(?<![\w./:])/(?:[^\s/`|)'\"]+/)+"         # those of an absolute path, not of an address


def cells_of(line):
    """The cells of a table's line."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def caption_and_path(line):
    """Of a picture's line."""
    return re.fullmatch(r"!\[(.*)\]\((.*)\)", line).groups()


def jpeg(path, width):
    """A picture as JPEG, at most `width` px wide: a fifth of a PNG's size."""
    buffer = io.BytesIO()
    with contextlib.suppress(OSError):              # a damaged picture stays empty
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((width, width))
        picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# ---- From Markdown to HTML

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Do GAN images help?</title><style>
body{margin:0 auto;max-width:960px;padding:12px;font:16px/1.5 system-ui,sans-serif;color:#1d2129}
h1{line-height:1.2}h1+p{font-size:1.2rem;font-weight:500}
h2{margin-top:2.5em;border-top:1px solid #ddd}
.scroll{overflow-x:auto;margin:1em 0}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.3em .8em .3em 0;border-bottom:1px solid #e3e6ea;text-align:left;vertical-align:top}
tr>:first-child{position:sticky;left:0;background:#fff;min-width:7em;max-width:38vw}
tr>:first-child{overflow-wrap:anywhere}
.row{display:flex;flex-wrap:wrap;gap:14px}figure{margin:.5em 0;max-width:100%}img{width:460px}
img,svg{max-width:100%;height:auto}figcaption{color:#555;font-size:.85rem;max-width:460px}
code{background:#f3f5f7;overflow-wrap:anywhere}
</style>"""


def inline(words):
    """Escaped text with **bold**, *italics* and `code`."""
    words = html.escape(words, quote=False)
    words = re.sub(r"`(.+?)`", r"<code>\1</code>", words)
    words = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", words)
    return re.sub(r"(?<!\w)\*(\w[^*]*)\*", r"<i>\1</i>", words)


def to_html(block, out):
    """One block of our Markdown. Every string is escaped; pictures are embedded."""
    lines = block.splitlines()
    if block.startswith("|"):
        rows = [row_html(lines[0], "th")]
        rows += [row_html(line, "td") for line in lines[2:]]
        return f'<div class="scroll"><table>{"".join(rows)}</table></div>'
    if block.startswith("!["):
        pictures = [picture_html(line, out) for line in lines]
        return f'<div class="row">{"".join(pictures)}</div>'
    if block.startswith("- "):
        items = [f"<li>{inline(line[2:])}</li>" for line in lines]
        return f"<ul>{''.join(items)}</ul>"
    if block.startswith("#"):
        marks, _, words = block.partition(" ")
        return f"<h{len(marks)}>{inline(words)}</h{len(marks)}>"
    return f"<p>{inline(' '.join(lines))}</p>"


def row_html(line, tag):
    cells = [f"<{tag}>{inline(cell)}</{tag}>" for cell in cells_of(line)]
    return f"<tr>{''.join(cells)}</tr>"


def picture_html(line, out):
    """A chart as it is, a PNG as JPEG."""
    caption, path = caption_and_path(line)
    caption = html.escape(caption)
    if path.endswith(".svg"):
        picture = (out / path).read_text()
    else:
        code = base64.b64encode(jpeg(out / path, 1040)).decode()
        picture = f'<img alt="{caption}" src="data:image/jpeg;base64,{code}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
