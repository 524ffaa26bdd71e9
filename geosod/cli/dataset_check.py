"""`geosod dataset check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.dataset_options import read, with_label_options
from geosod.cli.display import display
from geosod.cli.printing import Json, print_json
from geosod.cli.status_line import counted

if TYPE_CHECKING:
    from geosod.datasets.findings import CheckReport

#: Characters of the longest bar of a histogram.
_BAR = 40


@with_label_options
def check_command(
    labels: Annotated[Path, typer.Argument(help="File or folder of labels.", show_default=False)],
    open_images: Annotated[
        bool, typer.Option("--open-images/--no-open-images", help="Compare the sizes of images with their files.")
    ] = True,
    json: Json = False,
    **options: Any,
) -> None:
    """Report what looks wrong in labels, and how large the objects are.

    Example: geosod dataset check train.json

    Exit codes: 0 nothing wrong, or warnings only; 3 errors; 2 bad usage, or nothing can be read; 1 a bug.
    """
    with display(quiet=True):
        from geosod.datasets.check import check_labels

        report = check_labels(read(labels, options, invalid="skip", quiet=True), open_images=open_images)
    if json:
        from dataclasses import asdict

        print_json(asdict(report) | {"errors": report.errors})
    else:
        print("\n".join(_lines(report)))
    raise typer.Exit(3 if report.errors else 0)


def _lines(report: CheckReport) -> list[str]:
    counts = report.counts
    head = f"{counted(counts['boxes'], 'label')} in {counted(counts['images'], 'image')}"
    extra = [f"{counts[key]:,} {key}" for key in ("ignored", "crowds", "truncated") if counts[key]]
    if counts["images_without_boxes"]:
        extra.append(f"{counted(counts['images_without_boxes'], 'image')} without any")
    lines = [f"{head}{'; ' if extra else ''}{', '.join(extra)}", *report.notes]
    lines += [f"  {count:>9,}  {name}" for name, count in sorted(report.classes.items(), key=lambda pair: -pair[1])]
    for finding in report.findings:
        lines.append(f"{finding.level}: {finding.message}")
        lines += [f"    {example}" for example in finding.examples]
    if report.problem_count:
        entries = "entry" if report.problem_count == 1 else "entries"
        lines.append(f"error: {report.problem_count:,} {entries} cannot be used")
        lines += [f"    {problem}" for problem in report.problems[:10]]
    return [*lines, *_sizes(report.histograms)]


def _sizes(histograms: dict[str, Any]) -> list[str]:
    if not histograms:
        return []
    rows = histograms["side"]["bins"]
    top = max(row["count"] for row in rows)
    lines = ["√area in pixels:"]
    for row in rows:
        end = "   ..." if row["to"] is None else f"{row['to']:6.1f}"
        bar = "█" * max(1, round(_BAR * row["count"] / top)) if row["count"] else ""
        lines.append(f"  {row['from']:6.1f} to {end}  {row['count']:>8,}  {bar}".rstrip())
    scale = histograms["relative_scale"]
    lines.append("√(box area / image area), deciles: " + " ".join(f"{value:g}" for value in scale["deciles"]))
    lines.append(f"  largest and smallest tenth differ by a factor of {scale['factor_of_outer_tenths']:g}")
    if "side_m" in histograms:
        metres = histograms["side_m"]
        lines.append(
            f"√area in metres: median {metres['p50']:g}, {metres['p5']:g} to {metres['p95']:g} for nine tenths"
        )
    return lines
