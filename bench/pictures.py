"""Pictures of results: python -m bench.pictures [RESULT.json] [PICTURE.png] (default: the newest of the market)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.report import RESULTS

PICTURES = Path(__file__).parent / "pictures"


def draw_price(details: dict[str, Any], path: Path) -> None:
    """Price and free slots of the model in short supply over the virtual time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    price, plan = details["price"], details["price"]["plan"]
    minutes = [at / 60 for at, *_ in price["samples"]]
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 5.5), height_ratios=(3, 1))
    begin, end = plan["calm_s"] / 60, (plan["calm_s"] + plan["rush_s"]) / 60
    for axes in (above, below):
        axes.axvspan(begin, end, color="0.93")
        axes.grid(alpha=0.3)
    above.plot(minutes, [median for _, _, median, _ in price["samples"]], color="tab:blue", label="median")
    above.plot(minutes, [best for _, best, _, _ in price["samples"]], color="tab:cyan", linewidth=1, label="best")
    for percent, name in ((plan["ceiling_percent"], "ceiling"), (100, "listed"), (plan["floor_percent"], "floor")):
        level = plan["listed"] * percent / 100
        above.axhline(level, color="0.4", linewidth=0.8, linestyle=":")
        above.annotate(name, (minutes[-1], level), xytext=(4, -3), textcoords="offset points", fontsize=8)
    above.set_ylabel("nanogram a job")
    above.set_title(
        f"A model in short supply under follow-demand: {plan['providers']} providers, "
        f"demand {plan['calm_share']:g}, {plan['rush_share']:g} (grey), {plan['calm_share']:g} of what they can do",
        fontsize=10,
    )
    above.legend(loc="center right", fontsize=8)
    below.plot(minutes, [free for *_, free in price["samples"]], color="tab:green")
    below.set_ylabel("free slots")
    below.set_xlabel("virtual minutes")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: list[str]) -> None:
    source = Path(arguments[0]) if arguments else max(RESULTS.glob("*market*.json"))
    target = Path(arguments[1]) if len(arguments) > 1 else PICTURES / "price-of-a-short-supply.png"
    report = json.loads(source.read_text())
    details = next(each["details"] for each in report["benchmarks"] if each["name"] == "market")
    draw_price(details, target)
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
