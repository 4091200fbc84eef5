"""zone_picture.py CSV: the latencies of chunk reads by code as a picture (SVG): which share of reads took longer than how long.

CSV has lines `code,milliseconds`, for each code the quantiles from 0 to 1 in steps of a thousandth (benches/zone.rs)."""

import math
import sys

from svg_style import heading, paint, picture, text

curves = {}
for line in open(sys.argv[1]).read().splitlines()[1:]:
    code, value = line.split(",")
    curves.setdefault(code, []).append(float(value))
W, H, L, R, T, B = 860, 460, 84, 820, 70, 390
# Legible on light and dark paper.
COLOURS = dict(zip(curves, ["#e15759", "#e67e22", "#5b8fc7", "#4f9d4b"]))
low = min(min(v) for v in curves.values())
high = max(max(v) for v in curves.values())
low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))


def x(ms):
    return L + (R - L) * math.log(max(ms, low) / low) / math.log(high / low)


def y(share):
    return T + (B - T) * -math.log10(share) / 3


out = [heading(L, 28, "Chunk reads from the zone, one of six servers slowed by 20 ms")]
out.append(text("soft", L, 50, "reads that took longer, % (logarithmic)"))
for share in (1, 0.1, 0.01, 0.001):
    out.append(f'<path {paint("grid")} d="M{L} {y(share):.1f}H{R}"/>')
    out.append(text("soft", L - 8, y(share) + 4, f"{share * 100:g} %", "end"))
tick = low
while tick <= high:
    out.append(f'<path {paint("grid")} d="M{x(tick):.1f} {T}V{B}"/>')
    out.append(text("soft", x(tick), B + 18, f"{tick:g}", "middle"))
    tick *= 10
out.append(f'<path {paint("axis")} d="M{L} {T}V{B}H{R}"/>')
out.append(text("soft", (L + R) / 2, B + 38, "latency, ms (logarithmic)", "middle"))
out.append(text("soft", (L + R) / 2, B + 56, "curves end at 0.1 %: the slowest reads of a code are not on this axis", "middle"))
for n, (code, values) in enumerate(curves.items()):
    last = len(values) - 1
    # The last quantile is the slowest read alone, whose share no logarithmic axis has.
    points = " ".join(f"{x(v):.1f},{y(1 - i / last):.1f}" for i, v in enumerate(values) if 1 - i / last >= 0.00099)
    out.append(f'<polyline fill="none" stroke-width="2" stroke="{COLOURS[code]}" points="{points}"/>')
    out.append(f'<rect x="{R - 90}" y="{T + 14 + 20 * n}" width="14" height="4" fill="{COLOURS[code]}"/>')
    out.append(text("text", R - 70, T + 20 + 20 * n, code))
print(picture(W, H, "Which share of chunk reads took longer than how long, by erasure code", out))
