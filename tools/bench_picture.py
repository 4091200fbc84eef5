#!/usr/bin/env python3
"""bench_picture.py TABLE > docs/explanation/performance.svg: where the time goes, from what `make bench` printed."""
import sys

PARTS = ["inflate", "SHA-256 stored", "SHA-256 plain", "pack", "key, GCM, name", "write"]
COLOURS = ["#4e79a7", "#a0cbe8", "#76b7b2", "#f28e2b", "#e15759", "#b07aa1"]
ROW, LEFT, WIDTH, TOP = 46, 150, 560, 54

rows = []
for line in open(sys.argv[1]):
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    if len(cells) == 13 and cells[1] in ("none", "zstd:1"):
        rows.append((cells[0], cells[1], [float(cell) for cell in cells[2:8]], float(cells[8]), float(cells[9])))
scale = WIDTH / max(max(floor, ours) for *_, floor, ours in rows)
out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 110}" height="{TOP + ROW * len(rows) + 10}" font-family="sans-serif" font-size="12">',
    '<rect width="100%" height="100%" fill="white"/>',
]
x = 10
for name, colour in zip(PARTS, COLOURS):
    out.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}"/><text x="{x + 17}" y="22">{name}</text>')
    x += 30 + 7 * len(name)
out.append(f'<rect x="{x}" y="12" width="12" height="12" fill="#444"/><text x="{x + 17}" y="22">measured conversion</text>')
out.append(f'<text x="10" y="42" fill="#555">Seconds on 2 processors: what must be done, each part alone, divided by 2; and the conversion.</text>')
for row, (image, codec, parts, floor, ours) in enumerate(rows):
    y = TOP + ROW * row
    out.append(f'<text x="10" y="{y + 18}">{image}, {codec}</text>')
    x = LEFT
    for part, colour in zip(parts, COLOURS):
        width = part * floor / sum(parts) * scale
        out.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" fill="{colour}"/>')
        x += width
    out.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{floor:.2f}</text>')
    out.append(f'<rect x="{LEFT}" y="{y + 18}" width="{ours * scale:.1f}" height="16" fill="#444"/>')
    out.append(f'<text x="{LEFT + ours * scale + 6:.1f}" y="{y + 31}">{ours:.2f}  ({ours / floor:.2f} times)</text>')
print("\n".join(out + ["</svg>"]))
