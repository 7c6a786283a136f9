"""What was measured, for people: a table a row, ratios to this service's peers beside what they ought to be."""

from collections.abc import Iterator

from tests.bench.measuring import Result, Target


def table(results: list[Result]) -> str:
    """All rows."""
    return "\n".join(line for result in results for line in _lines(result))


def verdicts(result: Result) -> Iterator[tuple[Target, float, bool]]:
    """Each target whose figures there are, with the ratio (or figure) reached, and whether that is enough."""
    for target in result.targets:
        value = result.figures.get(target.subject, {}).get(target.figure)
        if target.against is not None:
            other = result.figures.get(target.against, {}).get(target.figure)
            value = value / other if value is not None and other else None
        if value is not None:
            yield target, value, value >= target.bound if target.at_least else value <= target.bound


def markdown(results: list[Result]) -> str:
    """Every target of all rows, for a page."""
    lines = [
        "| row | figure | this service | beside | ratio | aim |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for target, value, enough in verdicts(result):
            ours = result.figures[target.subject][target.figure]
            other = result.figures[target.against][target.figure] if target.against else None
            beside = f"{target.against}: {_number(other)}" if other is not None else ""
            ratio = f"{_number(value)} ×" if target.against else ""
            aim = f"{'≥' if target.at_least else '≤'} {_number(target.bound)}{' ×' if target.against else ''}"
            figure = f"{_whose(target)}{target.figure}"
            mark = "" if enough else ", **missed**"
            lines.append(f"| {result.row} | {figure} | {_number(ours)} | {beside} | {ratio} | {aim}{mark} |")
        lines += [f"| {result.row} | not measured: {missing} | | | | |" for missing in result.missing]
    return "\n".join(lines) + "\n"


def _lines(result: Result) -> Iterator[str]:
    yield f"\n{result.row}: {result.title}"
    width = max(map(len, result.figures), default=0)
    for subject, figures in result.figures.items():
        said = " · ".join(f"{name} {_number(value)}" for name, value in figures.items())
        yield f"  {subject:<{width}}  {said}"
    for target, value, enough in verdicts(result):
        sign = "≥" if target.at_least else "≤"
        unit = f" × {target.against}" if target.against else ""
        mark = "reached" if enough else "MISSED"
        asked = f"{_number(value)}{unit} (asked: {sign} {_number(target.bound)})"
        yield f"  {mark}: {_whose(target)}{target.figure}: {asked}"
    for missing in result.missing:
        yield f"  missing: {missing}"


def _whose(target: Target) -> str:
    return "" if target.subject == Target.subject else f"{target.subject}: "


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
