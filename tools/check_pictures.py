#!/usr/bin/env python3
"""check_pictures.py FILE...: checks pictures (SVG) and pages (HTML with SVG inside) that the programs and tools draw.

Each is well-formed XML (expat), has no script, event handler, link or request, draws nothing outside its view box (rendered by librsvg),
has no text on other text, and its text has a contrast of 4.5 to what is behind it, in light and in dark mode. Prints each fault; exits
with 1 if there is one. Needs rsvg-convert (Debian: librsvg2-bin)."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib

SVG = "{http://www.w3.org/2000/svg}"
MARGIN = 300
# Narrower than fonts are, so that only what surely overlaps is reported.
NARROW = 0.45


def local(element):
    return element.tag.rsplit("}", 1)[-1]


def forbidden(root):
    for element in root.iter():
        name = local(element)
        if name in ("script", "foreignObject", "iframe", "object", "embed", "link", "img", "image", "use", "a", "form"):
            yield f"element <{name}>"
        for key, value in element.attrib.items():
            key = key.rsplit("}", 1)[-1]
            if key.startswith("on") or key in ("href", "src") or (key != "style" and "javascript:" in value):
                yield f"attribute {key}={value!r}"
        if name == "style" and re.search(r"@import|url\((?!#)|expression", element.text or ""):
            yield "a style that fetches"


def rows_of(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n"), "rsvg-convert gave no PNG"
    at, data, width, pixel = 8, b"", 0, 4
    while at < len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width = int.from_bytes(body[:4], "big")
            assert body[8:10] in (b"\x08\x02", b"\x08\x06"), "neither RGB nor RGBA"
            pixel = 4 if body[9] == 6 else 3
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    raw, stride = zlib.decompress(data), width * pixel + 1
    return [raw[row + 1 : row + stride] for row in range(0, len(raw), stride)]


def is_empty(svg, box):
    """Whether nothing is drawn there: filtered or not, rows of transparent pixels are zeros."""
    x, y, width, height = box
    svg.set("viewBox", f"{x} {y} {width} {height}")
    svg.set("width", str(width))
    svg.set("height", str(height))
    ran = subprocess.run(["rsvg-convert", "--format=png"], input=ET.tostring(svg), capture_output=True, check=False)
    if ran.returncode:
        sys.exit(f"rsvg-convert: {ran.stderr.decode()}")
    return not any(any(row) for row in rows_of(ran.stdout))


def outside(svg):
    x, y, width, height = (float(part) for part in svg.get("viewBox").split())
    assert (x, y) == (0, 0)
    for element in svg.iter():
        element.attrib.pop("visibility", None)
    whole = 2 * MARGIN
    strips = {
        "left": (-MARGIN, -MARGIN, MARGIN, height + whole),
        "right": (width, -MARGIN, MARGIN, height + whole),
        "top": (-MARGIN, -MARGIN, width + whole, MARGIN),
        "bottom": (-MARGIN, height, width + whole, MARGIN),
    }
    for side, box in strips.items():
        if not is_empty(svg, box):
            yield f"something is drawn past the {side} edge"
    if is_empty(svg, (0, 0, width, height)):
        yield "nothing is drawn"


def number(element, key):
    return float(element.get(key, "0"))


def box_of(text):
    content, size = "".join(text.itertext()), float(text.get("font-size", "12"))
    width = len(content) * size * NARROW
    left = number(text, "x") - {"middle": width / 2, "end": width}.get(text.get("text-anchor"), 0)
    return left, number(text, "y") - size * 0.7, left + width, number(text, "y")


def overlaps(svg):
    hidden = [e for e in svg.iter() if e.get("visibility") == "hidden"]
    texts = [e for e in svg.iter(f"{SVG}text") if e not in hidden and not e.get("transform")]
    boxes = [(box_of(text), "".join(text.itertext())) for text in texts]
    for at, (one, name) in enumerate(boxes):
        for two, other in boxes[at + 1 :]:
            if min(one[2], two[2]) - max(one[0], two[0]) > 2 and min(one[3], two[3]) - max(one[1], two[1]) > 2:
                yield f"`{name}` and `{other}` overlap"


def rules(root):
    """Selector and fill of each rule, of light mode and of dark mode."""
    text = "".join(style.text or "" for style in root.iter() if local(style) == "style")
    dark = re.search(r"@media\s*\(prefers-color-scheme:\s*dark\)\s*\{((?:[^{}]*\{[^{}]*\})*)\s*\}", text)
    light = text.replace(dark.group(0), "") if dark else text
    found = []
    for part in (light, dark.group(1) if dark else ""):
        pairs = re.findall(r"([^{}]+)\{([^{}]*)\}", part)
        fills = [(s, re.search(r"(?<![-\w])fill:\s*(#[0-9a-fA-F]{6}|#[0-9a-fA-F]{3}|none)", body)) for s, body in pairs]
        found.append([(one.strip(), m.group(1)) for s, m in fills if m for one in s.split(",")])
    return found[0], found[0] + found[1]


def fill(element, mode):
    colour, classes = element.get("fill", "#000000"), element.get("class", "").split()
    weight = 0
    for selector, value in mode:
        if selector == local(element) and weight <= 1:
            colour, weight = value, 1
        elif selector[:1] == "." and selector[1:] in classes:
            colour, weight = value, 2
    return {"white": "#ffffff", "black": "#000000"}.get(colour, colour)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def length(element, key, whole):
    value = element.get(key, "0")
    return whole if value == "100%" else float(value)


def faint(root, svg):
    width, height = (float(part) for part in svg.get("viewBox").split()[2:])
    for name, mode in zip(("light", "dark"), rules(root)):
        rects, seen = [], set()
        for element in svg.iter():
            if local(element) == "rect":
                rects.append(element)
            if local(element) != "text" or element.get("transform"):
                continue
            x, y = number(element, "x"), number(element, "y")
            behind = None
            for rect in rects:
                left, top = number(rect, "x"), number(rect, "y")
                inside = left <= x <= left + length(rect, "width", width) and top <= y <= top + length(rect, "height", height)
                if inside and fill(rect, mode) != "none":
                    behind = fill(rect, mode)
            if behind is None:
                yield f"{name} mode: `{''.join(element.itertext())}` has no background of its own"
                continue
            one, two = sorted((luminance(behind), luminance(fill(element, mode))))
            contrast = (two + 0.05) / (one + 0.05)
            if contrast < 4.5 and (behind, fill(element, mode)) not in seen:
                seen.add((behind, fill(element, mode)))
                yield f"{name} mode: `{''.join(element.itertext())}` has a contrast of {contrast:.1f} to {behind}"


def check(path):
    root = ET.parse(path).getroot()
    faults = list(forbidden(root))
    for svg in [root] if root.tag == f"{SVG}svg" else root.iter(f"{SVG}svg"):
        faults += list(overlaps(svg)) + list(faint(root, svg)) + list(outside(svg))
    if root.tag != f"{SVG}svg":
        policy = [meta.get("content", "") for meta in root.iter() if meta.get("http-equiv") == "Content-Security-Policy"]
        faults += [] if policy and "default-src 'none'" in policy[0] else ["no content security policy"]
    return faults


wrong = [f"{path}: {fault}" for path in sys.argv[1:] for fault in check(path)]
print("\n".join(wrong) or f"{len(sys.argv) - 1} pictures are well-formed, complete and legible")
sys.exit(bool(wrong))
