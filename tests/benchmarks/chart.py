"""A chart as SVG: lines over two axes with their names beside them; no background of its own."""

from collections.abc import Iterable, Sequence

# Told apart by everybody, in print too, and 3:1 or more against both white and near-black.
BLUE, GREEN, BROWN = "#0a84d0", "#12a06a", "#a2723c"
RED, VIOLET, PINK, YELLOW = "#d9534f", "#9b6fd6", "#d0679d", "#c08a00"
DASHED = 'class="ideal" stroke-width="1.6" stroke-dasharray="5 4"'

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 460, 64, 40, 190, 48
FONT = 'font-family="system-ui, sans-serif" font-size="13" role="img"'
STYLE = """<style>
  text { fill: #57606a } .ideal { stroke: #57606a } .axis { stroke: #8b949e; stroke-opacity: 0.35 }
  @media (prefers-color-scheme: dark) { text { fill: #b1bac4 } .ideal { stroke: #b1bac4 } }
</style>"""


def solid(colour: str, width: float) -> str:
    return f'stroke="{colour}" stroke-width="{width}"'


class Chart:
    """Drawn part by part, in the order of the calls. across, up: the largest values of the axes."""

    def __init__(self, title: str, across: float, up: float) -> None:
        self._across = (WIDTH - LEFT - RIGHT) / across
        self._up = (HEIGHT - TOP - BOTTOM) / up
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
            f"<title>{title}</title>",
            STYLE,
            _label(LEFT, 22, title, 'font-weight="600"'),
        ]

    def vertical(self, value: float, label: str) -> None:
        x = LEFT + value * self._across
        self._parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="axis"/>'
        )
        self._parts.append(_label(x, HEIGHT - BOTTOM + 18, label, 'text-anchor="middle"'))

    def horizontal(self, value: float, label: str) -> None:
        y = HEIGHT - BOTTOM - value * self._up
        self._parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="axis"/>')
        self._parts.append(_label(LEFT - 8, y + 4, label, 'text-anchor="end"'))

    def line(self, points: Iterable[tuple[float, float]], style: str) -> None:
        drawn = " ".join(
            f"{LEFT + x * self._across:.1f},{HEIGHT - BOTTOM - y * self._up:.1f}" for x, y in points
        )
        self._parts.append(f'<polyline points="{drawn}" fill="none" {style}/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        self._parts.append(
            f'<circle cx="{LEFT + x * self._across:.1f}" '
            f'cy="{HEIGHT - BOTTOM - y * self._up:.1f}" r="3.5" fill="{colour}"/>'
        )

    def legend(self, entries: Sequence[tuple[str, str, str]]) -> None:
        """entries: style, name, and what is said below it."""
        x = WIDTH - RIGHT + 14
        for number, (style, name, remark) in enumerate(entries):
            y = TOP + 10 + number * 42
            self._parts.append(f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" {style}/>')
            self._parts.append(_label(x + 30, y, name))
            self._parts.append(_label(x + 30, y + 16, remark, 'font-size="11"'))

    def svg(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])


def _label(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{words}</text>'
