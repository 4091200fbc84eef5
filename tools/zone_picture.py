"""zone_picture.py CSV: the latencies of chunk reads by code as a picture (SVG): which share of reads took longer than how long.

CSV has lines `code,milliseconds`, for each code the quantiles from 0 to 1 in steps of a thousandth (benches/zone.rs)."""

import math
import sys

curves = {}
for line in open(sys.argv[1]).read().splitlines()[1:]:
    code, value = line.split(",")
    curves.setdefault(code, []).append(float(value))
W, H, L, R, T, B = 860, 440, 70, 830, 60, 390
COLOURS = dict(zip(curves, ["#e15759", "#f28e2b", "#4e79a7", "#59a14f"]))
low = min(min(v) for v in curves.values())
high = max(max(v) for v in curves.values())
low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))


def x(ms):
    return L + (R - L) * math.log(max(ms, low) / low) / math.log(high / low)


def y(share):
    return T + (B - T) * -math.log10(max(share, 1e-3)) / 3


print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{W}" height="{H}" viewBox="0 0 {W} {H}">')
print("<style>text{font:12px sans-serif;fill:#333}.p{fill:#fff}.g{stroke:#e3e3e3}.c{fill:none;stroke-width:2}")
print("@media(prefers-color-scheme:dark){text{fill:#ddd}.p{fill:#15171c}.g{stroke:#2c3038}}</style>")
print(f'<rect class="p" width="{W}" height="{H}"/><text x="{L}" y="26" style="font-size:16px;font-weight:bold">Chunk reads, one of six servers slowed by 20 ms</text>')
print(f'<text x="{L}" y="44">share of reads that took longer</text>')
for share in (1, 0.1, 0.01, 0.001):
    print(f'<path class="g" d="M{L} {y(share):.1f}H{R}"/><text x="{L - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share * 100:g} %</text>')
tick = low
while tick <= high:
    print(f'<path class="g" d="M{x(tick):.1f} {T}V{B}"/><text x="{x(tick):.1f}" y="{B + 18}" text-anchor="middle">{tick:g} ms</text>')
    tick *= 10
for n, (code, values) in enumerate(curves.items()):
    last = len(values) - 1
    points = " ".join(f"{x(v):.1f},{y(1 - i / last):.1f}" for i, v in enumerate(values))
    print(f'<polyline class="c" stroke="{COLOURS[code]}" points="{points}"/>')
    print(f'<rect x="{R - 90}" y="{T + 10 + 20 * n}" width="14" height="4" fill="{COLOURS[code]}"/><text x="{R - 70}" y="{T + 16 + 20 * n}">{code}</text>')
print("</svg>")
