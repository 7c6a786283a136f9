"""Plots of a result: `plots.py RESULT DIRECTORY`, a program of the scratch environment, which has matplotlib."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the back-end is chosen before


def latency(row: dict[str, Any], directory: Path) -> None:
    """The share of events that arrived within a time."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, values in row["series"].items():
        axes.plot(values, [(number + 1) / len(values) for number in range(len(values))], label=name)
    axes.set(xscale="log", xlabel="ms from publish", ylabel="share of events", title=row["title"])
    axes.legend()
    figure.savefig(directory / "latency.png", dpi=120, bbox_inches="tight")


def scale(row: dict[str, Any], directory: Path) -> None:
    """Cost of an event against the number of diagnoses."""
    figure, axes = plt.subplots(figsize=(7, 4))
    (x_name, x), (y_name, y) = row["series"].items()
    axes.plot(x, y, marker="o")
    axes.set(xlabel=x_name, ylabel=y_name, title=row["title"], ylim=(0, None))
    figure.savefig(directory / "scale.png", dpi=120, bbox_inches="tight")


PLOTS = {"latency": latency, "scale": scale}

if __name__ == "__main__":
    for found in json.loads(Path(sys.argv[1]).read_text())["rows"]:
        if found["row"] in PLOTS and found["series"]:
            PLOTS[found["row"]](found, Path(sys.argv[2]))
