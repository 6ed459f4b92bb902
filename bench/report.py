"""`python -m bench.report KERNELS.json RECONSTRUCT.json`: tables and plots of docs/performance.md from what the benches wrote.

Writes docs/performance/*.svg, and puts the tables between the marks in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
MARKS = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", type=Path, help="of python -m bench.kernels --json")
    parser.add_argument("reconstruct", type=Path, help="of python -m bench.reconstruct --json")
    options = parser.parse_args()
    kernels, reconstruct = (json.loads(path.read_text()) for path in (options.kernels, options.reconstruct))
    (DOCS / "performance").mkdir(exist_ok=True)
    plots(kernels, reconstruct)
    page = DOCS / "performance.md"
    text = "\n".join(tables(kernels, reconstruct))
    page.write_text(MARKS.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", page.read_text()))


def tables(kernels: dict[str, Any], reconstruct: dict[str, Any]) -> list[str]:
    """Markdown of both benches."""
    machine = kernels["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "",
        f"{machine['threads']} threads ({machine['processor']}, vectors of {machine['lanes']} floats), {machine['date']}; "
        f"{versions}.",
        "",
        "| what | figure | limit | |",
        "|---|---|---|---|",
    ]
    for verdict in kernels["verdicts"] + reconstruct["verdicts"]:
        word = "holds" if verdict["holds"] else "**falls short**"
        relation = "at least" if verdict["at_least"] else "at most"
        value, limit = f"{verdict['value']:.3g} {verdict['unit']}", f"{relation} {verdict['limit']:g}"
        lines.append(f"| {verdict['what']} | {value} | {limit} | {word} |")
    lines += [
        "",
        "Milliseconds a slice, Fourier method, 64 rows:",
        "",
        "| | " + " | ".join(_size(s) for s in reconstruct["scans"]) + " |",
    ]
    lines.append("|---" * (1 + len(reconstruct["scans"])) + "|")
    for name in (key for key in reconstruct["scans"][0] if key.endswith("ms a slice")):
        lines.append(
            f"| {name.split(',')[0]} | " + " | ".join(f"{scan[name]:.1f}" for scan in reconstruct["scans"]) + " |"
        )
    errors = reconstruct["errors"][0]
    lines += [
        "",
        f"Error against the sinc oracle ({errors['columns']} columns, {errors['angles']} angles, Shepp-Logan), and time of 32 "
        "rows against the default's:",
        "",
        "| setting | error | time |",
        "|---|---|---|",
    ]
    for name in (key.removesuffix(": error %") for key in errors if key.endswith(": error %")):
        lines.append(f"| {name} | {errors[f'{name}: error %']:.3g} % | {errors[f'{name}: relative time']:.2f} x |")
    lines += ["", "Peak memory of an engine against its plan:", "", "| method | GB | GB planned |", "|---|---|---|"]
    lines += [f"| {peak['method']} | {peak['GB']:.2f} | {peak['GB planned']:.2f} |" for peak in reconstruct["memory"]]
    others = reconstruct.get("others")
    if others:
        lines += [
            "",
            f"Other programs, {others['columns']} columns x {others['angles']} angles, milliseconds a slice:",
            "",
            "| | |",
            "|---|---|",
        ]
        lines += [
            f"| {name.split(',')[0]} | {value:.1f} |" for name, value in others.items() if name.endswith("a slice")
        ]
    return lines


def _size(scan: dict[str, Any]) -> str:
    return f"{scan['columns']} x {scan['angles']}"


def plots(kernels: dict[str, Any], reconstruct: dict[str, Any]) -> None:
    """Rate over size, error over time, roofline."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "streamrecon"
    measured = [kernel for kernel in kernels["kernels"] if "updates/s" in kernel]
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    for name in dict.fromkeys(kernel["kernel"] for kernel in measured):
        some = [kernel for kernel in measured if kernel["kernel"] == name]
        axes.plot([k["columns"] for k in some], [k["updates/s"] / 1e9 for k in some], "o-", label=name)
    axes.set(xlabel="columns", ylabel="1e9 updates/s", ylim=(0, None), title="Rate over size")
    axes.set_xscale("log", base=2)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    _save(figure, "rate")

    errors = reconstruct["errors"][0]
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    names = [key.removesuffix(": error %") for key in errors if key.endswith(": error %")]
    for i, name in enumerate(names):
        error, time = errors[f"{name}: error %"], errors[f"{name}: relative time"]
        axes.plot(
            time, error, "s" if name.startswith("direct") else "o", color="C1" if name.startswith("direct") else "C0"
        )
        axes.annotate(
            name.replace("fourier ", "").replace("oversampling ", ""),
            (time, error),
            fontsize=7,
            xytext=(4, -10 + 11 * (i % 4)),
            textcoords="offset points",
        )
    axes.set(
        xlabel="time, against the default",
        ylabel="error against the sinc oracle, %",
        yscale="log",
        title="Error over time",
    )
    _save(figure, "error")

    ceilings = next(kernel for kernel in kernels["kernels"] if kernel["kernel"] == "ceilings")
    flops, bandwidth = ceilings["GFlop/s of sgemm"], ceilings["GB/s of a copy"]
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    intensity = [2**e for e in range(-2, 9)]
    axes.plot(intensity, [min(flops, bandwidth * i) for i in intensity], "k-", label="sgemm, copy (NumPy)")
    for name in dict.fromkeys(kernel["kernel"] for kernel in measured):
        kernel = [k for k in measured if k["kernel"] == name and k["columns"] == max(o["columns"] for o in measured)][
            -1
        ]
        axes.plot(kernel["flops"] / kernel["bytes"], kernel["GFlop/s"], "o", label=name)
    axes.set(xlabel="operations per byte of memory", ylabel="GFlop/s", title="Roofline, at the largest size")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    _save(figure, "roofline")


def _save(figure: Any, name: str) -> None:
    figure.savefig(DOCS / "performance" / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
