"""svg_style: the frame of the charts that bench_picture.py and zone_picture.py draw, for light and dark mode.

Colours are attributes; the style sheet has only the dark ones (as src/drawing/palette.rs)."""

from html import escape

# Class: attribute, light, dark.
COLOURS = {
    "paper": ("fill", "#ffffff", "#15171c"),
    "text": ("fill", "#1f2328", "#e6e8eb"),
    "soft": ("fill", "#57606a", "#a8b0ba"),
    "grid": ("stroke", "#e1e4e8", "#2f343d"),
    "axis": ("stroke", "#6e7681", "#8b949e"),
    "whole": ("fill", "#444b55", "#aeb6c0"),
}


def paint(name):
    kind, light, _ = COLOURS[name]
    return f'class="{name}" {kind}="{light}"' + (' fill="none"' if kind == "stroke" else "")


def text(name, x, y, content, anchor="start", more=""):
    anchor = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text {paint(name)}{anchor}{more} x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def heading(x, y, content):
    return text("text", x, y, content, more=' font-size="16" font-weight="bold"')


def picture(width, height, title, elements):
    dark = "".join(f".{name}{{{kind}:{colour}}}" for name, (kind, _, colour) in COLOURS.items())
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
            'font-family="sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            f"<style>@media(prefers-color-scheme:dark){{{dark}}}</style>",
            f'<rect {paint("paper")} width="{width}" height="{height}"/>',
            *elements,
            "</svg>",
        ]
    )
