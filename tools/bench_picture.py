#!/usr/bin/env python3
"""bench_picture.py TABLE > docs/explanation/performance.svg: where the time goes, from what `make bench` printed."""

import sys

from svg_style import paint, picture, text

PARTS = ["inflate", "SHA-256 stored", "SHA-256 plain", "pack", "key, GCM, name", "write"]
COLOURS = ["#4e79a7", "#a0cbe8", "#76b7b2", "#f28e2b", "#e15759", "#b07aa1"]
ROW, LEFT, WIDTH, TOP, RIGHT = 46, 140, 560, 66, 140

rows = []
for line in open(sys.argv[1]):
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    if len(cells) == 13 and cells[1] in ("none", "zstd:1"):
        rows.append((cells[0], cells[1], [float(cell) for cell in cells[2:8]], float(cells[8]), float(cells[9])))
longest = max(max(floor, ours) for *_, floor, ours in rows)
scale, bottom = WIDTH / longest, TOP + ROW * len(rows)
out, x = [], 10
for name, colour in zip(PARTS, COLOURS):
    out.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}"/>')
    out.append(text("text", x + 17, 22, name))
    x += 34 + 7 * len(name)
out.append(f'<rect {paint("whole")} x="{x}" y="12" width="12" height="12"/>')
out.append(text("text", x + 17, 22, "measured conversion"))
out.append(text("soft", 10, 46, "Upper bars: what must be done, each part alone, divided by 2 processors. Lower bars: the conversion."))
for tick in range(int(longest) + 1):
    at = LEFT + tick * scale
    out.append(f'<path {paint("grid")} d="M{at:.1f} {TOP - 6}V{bottom}"/>')
    out.append(text("soft", at, bottom + 16, str(tick), "middle"))
out.append(text("soft", LEFT + WIDTH / 2, bottom + 36, "seconds on 2 processors", "middle"))
for row, (image, codec, parts, floor, ours) in enumerate(rows):
    y = TOP + ROW * row
    out.append(text("text", 10, y + 21, f"{image}, {codec}"))
    x = LEFT
    for part, colour in zip(parts, COLOURS):
        width = part * floor / sum(parts) * scale
        out.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" fill="{colour}"/>')
        x += width
    out.append(text("text", x + 6, y + 13, f"{floor:.2f}"))
    out.append(f'<rect {paint("whole")} x="{LEFT}" y="{y + 18}" width="{ours * scale:.1f}" height="16"/>')
    out.append(text("text", LEFT + ours * scale + 6, y + 31, f"{ours:.2f} ({ours / floor:.2f} times)"))
print(picture(LEFT + WIDTH + RIGHT, bottom + 52, "Where the time of a conversion goes", out))
