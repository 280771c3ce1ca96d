#!/usr/bin/env python3
"""Draws what scenarios came to: plot.py RESULTS.jsonl DIR

RESULTS.jsonl holds the lines of `run.sh --json`. Writes DIR/benchmarks-flows.svg (the whole chain, scenarios full-*)
and DIR/benchmarks-policies.svg (established flows, scenarios established-*). Of a scenario that is there more than
once the last line counts.
"""

import json
import math
import pathlib
import re
import sys

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 64, 60
INK, GRID, LINE = "#222222", "#dddddd", "#1f5fa8"


def short(count):
    """10000 as people write it in an axis."""
    for unit, name in ((1_000_000, " M"), (1_000, " k")):
        if count >= unit:
            return f"{count / unit:g}{name}"
    return f"{count:g}"


def step(most):
    """The distance of the lines of an axis from 0 to about `most`: 1, 2 or 5 times a power of ten."""
    rough = most / 5
    power = 10 ** math.floor(math.log10(rough))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= rough)


def draw(title, under, axis, points):
    """The picture of `points`, each (x > 0, Mpps), x on a logarithmic axis."""
    points = sorted(points)
    every = step(max(y for _, y in points) * 1.1)
    top = every * math.ceil(max(y for _, y in points) * 1.1 / every)
    low, high = math.log10(points[0][0]), math.log10(points[-1][0])

    def across(x):
        return LEFT + 20 + (math.log10(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT - 40)

    def down(y):
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    def text(x, y, words, anchor="middle", size=13, more=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{more}>{words}</text>'

    middle = (TOP + HEIGHT - BOTTOM) / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" fill="{INK}">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 26, title, "start", 17),
        text(LEFT, 46, under, "start", 12),
    ]
    for index in range(round(top / every) + 1):
        y = index * every
        lines.append(f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        lines.append(text(LEFT - 8, down(y) + 4, f"{y:g}", "end"))
    for x, _ in points:
        lines.append(f'<path d="M{across(x):.1f} {HEIGHT - BOTTOM}v5" stroke="{INK}"/>')
        lines.append(text(across(x), HEIGHT - BOTTOM + 20, short(x)))
    lines.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="{INK}"/>')
    lines.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, axis))
    turn = f' transform="rotate(-90 22 {middle:.1f})"'
    lines.append(text(22, middle, "million packets a second (Mpps)", more=turn))
    corners = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
    lines.append(f'<polyline points="{corners}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    for x, y in points:
        lines.append(f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="4" fill="{LINE}"/>')
        lines.append(text(across(x), down(y) - 10, f"{y:.1f}"))
    return "\n".join([*lines, "</svg>", ""])


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py RESULTS.jsonl DIR")
    results, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    rows = {}
    for number, line in enumerate(results.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["scenario"]] = row
        except (ValueError, KeyError, TypeError) as wrong:
            sys.exit(f"{results}:{number}: not a line of run.sh --json: {wrong!r}")
    folder.mkdir(parents=True, exist_ok=True)
    for file, pattern, x, title, axis in (
        ("flows", r"full-\d+[km]", "flows", "The whole chain, one worker core", "live flows (logarithmic)"),
        ("policies", r"established-\d+", "policies", "Established flows, one worker core", "policies (logarithmic)"),
    ):
        found = [row for name, row in rows.items() if re.fullmatch(pattern, name)]
        points = {row[x]: row["mpps"] for row in found}
        if len(points) < 2:
            sys.exit(f"{results}: fewer than two scenarios {pattern}")
        sizes = sorted({row["packet_bytes"] for row in found})
        references = [row["reference_mpps"] for row in found if row["reference_mpps"]]
        under = f"packets of {', '.join(map(str, sizes))} bytes"
        if references:
            low, high = min(references), max(references)
            under += f"; testpmd macswap on the same core in the same run: {low:.0f} to {high:.0f} Mpps"
        target = folder / f"benchmarks-{file}.svg"
        target.write_text(draw(title, under, axis, list(points.items())))
        print(target)


if __name__ == "__main__":
    main()
