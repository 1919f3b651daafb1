"""Draws what happened to an answer while a machine was lost: for a terminal, and as an SVG."""

import dataclasses
import html

WIDTH = 72  # columns of the drawing
BARS = " ▁▂▃▄▅▆▇█"


@dataclasses.dataclass
class Facts:
    times: list  # of each token, seconds from the question
    killed: float  # seconds from the question
    victim: str
    before: dict  # `conclave pool --json`
    after: dict

    @property
    def end(self):
        return self.times[-1]

    @property
    def resumed(self):
        """The first token after the kill."""
        return next(t for t in self.times if t > self.killed)

    @property
    def longest_pause(self):
        return max(b - a for a, b in zip(self.times, self.times[1:]))

    def shares(self):
        """Name -> (share before, share after)."""
        after = {node["name"]: node["share_percent"] for node in self.after["nodes"]}
        return {n["name"]: (n["share_percent"], after[n["name"]]) for n in self.before["nodes"]}


def _rates(facts, columns):
    """Tokens in each column."""
    counts = [0] * columns
    for t in facts.times:
        counts[min(columns - 1, int(t / facts.end * columns))] += 1
    return counts


def as_text(facts, look):
    kill_column = int(facts.killed / facts.end * WIDTH)
    lines = []
    for name, (before, after) in facts.shares().items():
        label = f"    {name:8s}"
        left = f"{before:3.0f} % ".ljust(kill_column, "━")[:kill_column]
        if name == facts.victim:
            lines.append(label + left + look.red("✖") + look.dim(" killed"))
        else:
            right = f"{after:3.0f} % ".ljust(WIDTH - kill_column, "━")
            lines.append(label + left + "┃" + right)
    counts = _rates(facts, WIDTH)
    top = max(counts)
    bars = "".join(BARS[round(c / top * (len(BARS) - 1))] for c in counts)
    lines.append(f"    {'tokens':8s}{bars}")
    lines.append(f"    {'':8s}0 s{f'{facts.end:.1f} s':>{WIDTH - 3}s}")
    lines.append(
        f"    {facts.victim} is killed at {facts.killed:.2f} s; the next token comes "
        f"{1000 * (facts.resumed - facts.killed):.0f} ms later; longest pause "
        f"{1000 * facts.longest_pause:.0f} ms"
    )
    return "\n".join(lines)


# --- SVG ------------------------------------------------------------------------------------------

_LANE = 46
_LEFT = 90
_PLOT = 640
_STYLE = """
  text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #24292f; }
  .small { font-size: 11px; fill: #57606a; }
  .title { font-size: 15px; font-weight: 600; }
  .lane { fill: #54aeff; } .more { fill: #0969da; } .dead { stroke: #cf222e; stroke-width: 2.5; }
  .tick { stroke: #2da44e; stroke-width: 1; } .cut { stroke: #cf222e; stroke-dasharray: 4 3; }
  .back { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #8b949e; } .back { fill: #0d1117; }
    .lane { fill: #1f6feb; } .more { fill: #58a6ff; }
  }
"""


def _x(facts, seconds):
    return _LEFT + seconds / facts.end * _PLOT


def _lane(facts, name, shares, y):
    before, after = shares
    cut = _x(facts, facts.killed)
    parts = [f'<text x="12" y="{y + 15}">{html.escape(name)}</text>',
             f'<rect class="lane" x="{_LEFT}" y="{y}" width="{cut - _LEFT:.1f}" height="20" rx="3"/>',
             f'<text class="small" x="{_LEFT + 6}" y="{y + 34}">{before:.0f} %</text>']  # fmt: skip
    if name == facts.victim:
        parts.append(f'<path class="dead" d="M{cut - 7:.1f} {y + 3} l14 14 m0 -14 l-14 14"/>')
    else:
        kind = "more" if after > before else "lane"
        parts.append(f'<rect class="{kind}" x="{cut + 2:.1f}" y="{y}" '
                     f'width="{_LEFT + _PLOT - cut - 2:.1f}" height="20" rx="3"/>')  # fmt: skip
        parts.append(f'<text class="small" x="{cut + 8:.1f}" y="{y + 34}">{after:.0f} %</text>')
    return "\n".join(parts)


def as_svg(facts):
    shares = facts.shares()
    tokens_y = 52 + _LANE * len(shares)
    height = tokens_y + 84
    cut = _x(facts, facts.killed)
    body = [f'<text class="title" x="12" y="24">One answer, three machines, one of them lost</text>']
    body += [_lane(facts, name, pair, 44 + _LANE * i) for i, (name, pair) in enumerate(shares.items())]
    body.append(f'<text x="12" y="{tokens_y + 14}">tokens</text>')
    body += [f'<line class="tick" x1="{_x(facts, t):.1f}" x2="{_x(facts, t):.1f}" y1="{tokens_y}" '
             f'y2="{tokens_y + 20}"/>' for t in facts.times]  # fmt: skip
    body.append(f'<line class="cut" x1="{cut:.1f}" x2="{cut:.1f}" y1="36" y2="{tokens_y + 26}"/>')
    body.append(f'<text class="small" x="{_LEFT}" y="{tokens_y + 42}">0 s</text>')
    body.append(f'<text class="small" text-anchor="end" x="{_LEFT + _PLOT}" y="{tokens_y + 42}">'
                f"{facts.end:.1f} s</text>")  # fmt: skip
    body.append(f'<text x="12" y="{tokens_y + 68}">{html.escape(facts.victim)} is killed at '
                f"{facts.killed:.2f} s; the next token comes "
                f"{1000 * (facts.resumed - facts.killed):.0f} ms later.</text>")  # fmt: skip
    width = _LEFT + _PLOT + 20
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="timeline of an answer during the loss of a machine">\n<style>{_STYLE}'
            f'</style>\n<rect class="back" width="{width}" height="{height}"/>\n'
            + "\n".join(body) + "\n</svg>\n")  # fmt: skip
