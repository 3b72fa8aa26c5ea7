"""Makes ``results/search.md`` and ``results/search.png`` from what the searches measured.

python benchmarks/search_report.py
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from rank_agreement import NUM_ARCHITECTURES, NUM_CLASSES, SCORES
from retrain import GROUND_TRUTH
from scipy.stats import kendalltau
from searches import HISTORIES, SEARCHES, VARIANTS
from workshop import RECIPE, RESULTS, RETRAINED, Row, every_architecture, read, uniform_within

from fpnas.architecture import architecture_at
from fpnas.space import load_space

PAGE = RESULTS / "search.md"
FIGURE = RESULTS / "search.png"
ENGINE = RESULTS / "engine.csv"


def mean_sd(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation; the mean alone of a single value."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def retrained() -> dict[str, list[float]]:
    """Top-1 of every trained architecture in per cent, by sha256, one value a seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in read(RETRAINED):
        if int(row["epochs"]) == RECIPE.epochs:
            found[row["sha256"]].append(100 * float(row["top1"]))
    return found


def strategy_table(space: str) -> list[str]:
    """One row a variant: accuracy of what it found, and the bill."""
    top1 = retrained()
    lines = [
        "| variant | seeds | top-1 retrained, % | MACs, M | samples | forward passes | "
        "backward passes | seconds | CPU seconds | peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in VARIANTS:
        rows = [r for r in read(SEARCHES) if (r["space"], r["variant"]) == (space, name)]
        if not rows:
            continue
        scores = [statistics.mean(top1[r["sha256"]]) for r in rows if r["sha256"] in top1]
        cells = [name, str(len(rows)), mean_sd(scores)]
        cells.append(mean_sd([float(r["macs"]) / 1e6 for r in rows], 2))
        counts = ("num_samples", "num_forwards", "num_backwards")
        cells += [mean_sd([float(r[column]) for r in rows], 0) for column in counts]
        # The machine was busy when CPU time was taken.
        cells.append(mean_sd([float(r["seconds"]) for r in rows if not r["cpu_seconds"]], 0))
        cells.append(mean_sd([float(r["cpu_seconds"]) for r in rows if r["cpu_seconds"]], 0))
        cells.append(mean_sd([float(r["peak_mib"]) for r in rows], 0))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratios(space: str) -> list[str]:
    """The project's goals, as far as these searches tell."""
    rows = [r for r in read(SEARCHES) if r["space"] == space]

    def medians(other: str, column: str) -> tuple[float, float] | None:
        """Of FP-NAS and of another, over the seeds that both have."""
        found: dict[str, dict[str, float]] = {"fpnas": {}, other: {}}
        for r in rows:
            if r["variant"] in found and r[column]:
                found[r["variant"]][r["seed"]] = float(r[column])
        both = found["fpnas"].keys() & found[other].keys()
        ours, theirs = ([found[v][seed] for seed in both] for v in ("fpnas", other))
        return (statistics.median(ours), statistics.median(theirs)) if both else None

    lines = ["| figure, medians over the common seeds | ours | the paper |", "|---|---|---|"]
    for text, other, paper in (
        ("samples saved against PARSEC", "parsec", "64 %"),
        ("samples saved against PARSEC with our warm-up", "parsec, K = 1 in the warm-up", "-"),
        ("samples saved against joint only", "joint", "9-14 %"),
    ):
        if found := medians(other, "num_samples"):
            lines.append(f"| {text} | {100 * (1 - found[0] / found[1]):.0f} % | {paper} |")
    longer = "dnas, three times as long"
    for text, other, column, paper in (
        ("times faster than PARSEC, same engine", "parsec", "seconds", "2.1"),
        ("times faster than DNAS", "dnas", "seconds", "1.9-3.5"),
        ("times faster than DNAS, three times as long, CPU time", longer, "cpu_seconds", "1.9-3.5"),
    ):
        if found := medians(other, column):
            lines.append(f"| {text} | {found[1] / found[0]:.1f} | {paper} |")
    naive = [
        float(r["speedup"])
        for r in read(ENGINE)
        if (r["strategy"], r["variant"], r["threads"]) == ("fpnas", "all, exact", "1")
    ]
    found = medians("parsec", "seconds")
    if found and naive:
        ratio = statistics.median(naive) * found[1] / found[0]
        text = "times faster than PARSEC computed naively (the engine's ratio times PARSEC's)"
        lines.append(f"| {text} | {ratio:.1f} | - |")
    return lines


def random_section() -> list[str]:
    """What architectures that nobody searched for reach."""
    top1 = retrained()
    space = load_space("tiny").open()
    drawn = uniform_within(space, NUM_CLASSES, NUM_ARCHITECTURES, seed=0)
    names = [architecture_at(space, choices).sha256 for choices in drawn]
    scores = [statistics.mean(top1[name]) for name in names if name in top1]
    if not scores:
        return []
    rows = {r["sha256"]: r for r in read(RETRAINED)}
    each = statistics.median(float(rows[name]["seconds"]) for name in names if name in rows)
    ours = [r for r in read(SEARCHES) if (r["space"], r["variant"]) == ("tiny", "fpnas")]
    bought = statistics.median(float(r["seconds"]) for r in ours) / each
    return [
        f"{len(scores)} architectures drawn uniformly within the budget reach {mean_sd(scores)} %, "
        f"the best {max(scores):.1f} %, the median {statistics.median(scores):.1f} %; the best of "
        f"two is {best_of(scores, 2):.1f} % on average, of three {best_of(scores, 3):.1f} %, of "
        f"five {best_of(scores, 5):.1f} %. A score on 1,250 pictures has a standard error of 1.3 "
        f"points. Training one of them took {each:.0f} s in the median: the time of a search with "
        f"fpnas buys {bought:.1f}.",
        "",
    ]


def truth_section() -> list[str]:
    """Where the architectures that searches found stand among all of the ground truth."""
    top1 = retrained()
    space = load_space(str(GROUND_TRUTH)).open()
    names = [architecture_at(space, c).sha256 for c in every_architecture(space)]
    trained = {name: statistics.mean(top1[name]) for name in names if name in top1}
    if len(trained) < len(names):
        return [
            f"Of the ground truth, {len(trained)} of {len(names)} architectures are trained.",
            "",
        ]
    macs = {r["sha256"]: int(r["macs"]) for r in read(RETRAINED)}
    trained = {name: top1 for name, top1 in trained.items() if macs[name] <= space.target_macs}
    best = max(trained.values())
    lines = [
        f"Ground truth: all {len(names)} architectures of `{space.name}` trained, the best eight",
        f"within its budget under three seeds. The {len(trained)} within the budget reach "
        f"{min(trained.values()):.1f} to {best:.1f} %, the median is "
        f"{statistics.median(trained.values()):.1f} %. Rank 1 is the best.",
        "The best eight were chosen by their first seed and their scores are means of three; the",
        "others have one score, whose standard error is 1.3 points, so that chance alone puts some",
        "of them in front. The last column ranks all by the first seed.",
        "",
        "| variant | seeds | regret, points | rank | samples | seconds | rank by one seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        rows = [r for r in read(SEARCHES) if (r["space"], r["variant"]) == (space.name, variant)]
        if not rows:
            continue
        found = [trained[r["sha256"]] for r in rows]
        ranks = [1 + sum(value > score for value in trained.values()) for score in found]
        cells = [variant, str(len(rows)), mean_sd([best - score for score in found])]
        cells.append(", ".join(str(rank) for rank in sorted(ranks)))
        cells.append(mean_sd([float(r["num_samples"]) for r in rows], 0))
        # One thread a search: CPU time is what a quiet machine would have taken.
        cells.append(mean_sd([float(r["cpu_seconds"] or r["seconds"]) for r in rows], 0))
        once = [1 + sum(top1[n][0] > top1[r["sha256"]][0] for n in trained) for r in rows]
        cells.append(", ".join(str(rank) for rank in sorted(once)))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def best_of(scores: list[float], number: int) -> float:
    """The expected best of some scores drawn without replacement."""
    ranked = sorted(scores)
    ways = [math.comb(position, number - 1) for position in range(len(ranked))]
    return sum(w * s for w, s in zip(ways, ranked, strict=True)) / sum(ways)


def draw(space: str) -> None:
    """Accuracy against cost, samples against time, entropy and K over the steps."""
    top1 = retrained()
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    rows = [r for r in read(SEARCHES) if r["space"] == space]
    others = [r for r in read(RETRAINED) if r["space"] == space]
    axes[0, 0].scatter(
        [float(r["macs"]) / 1e6 for r in others],
        [100 * float(r["top1"]) for r in others],
        color="0.75",
        label="not searched for",
        zorder=1,
    )
    shown = [name for name in VARIANTS if any(r["variant"] == name for r in rows)]
    for name, color in zip(shown, mpl.colormaps["tab20"].colors, strict=False):
        own = [r for r in rows if r["variant"] == name]
        scored = [r for r in own if r["sha256"] in top1]
        axes[0, 0].scatter(
            [float(r["macs"]) / 1e6 for r in scored],
            [statistics.mean(top1[r["sha256"]]) for r in scored],
            color=color,
            label=name,
            zorder=2,
        )
        axes[0, 1].scatter(
            [float(r["cpu_seconds"] or r["seconds"]) for r in own],
            [float(r["num_samples"]) for r in own],
            color=color,
        )
        curve: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for r in read(HISTORIES):
            if (r["space"], r["variant"]) == (space, name) and name in ("fpnas", "parsec", "joint"):
                curve[int(r["step"])].append((float(r["entropy_nats"]), float(r["num_samples"])))
        for axis, column in ((axes[1, 0], 0), (axes[1, 1], 1)):
            steps = sorted(curve)
            means = [statistics.mean(v[column] for v in curve[step]) for step in steps]
            if steps:
                axis.plot(steps, means, color=color, label=name)
    for axis, x, y in (
        (axes[0, 0], "MACs, millions", "top-1 after training from scratch, %"),
        (axes[0, 1], "seconds of search", "architectures sampled"),
        (axes[1, 0], "step", "entropy, nats"),
        (axes[1, 1], "step", "architectures a step, K"),
    ):
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(FIGURE, dpi=110)


def rank_section() -> list[str]:
    """How well scores with shared weights rank architectures."""
    top1 = retrained()
    scores = [r for r in read(SCORES) if r["sha256"] in top1]
    if not scores:
        return []
    number = len({r["sha256"] for r in scores})
    lines = [
        f"Kendall's tau between scores with shared weights and the retrained top-1 of {number} "
        "random architectures (mean over the seeds, and the single ones). The supernet is trained",
        "on uniform draws; `apart` names a variable whose values share no weights. Scores after",
        "600 steps are from the middle of the 1,500, at a high learning rate; the others are from",
        "the end of their schedule, where it is zero.",
        "",
        "| apart | steps | batch normalization | seeds | by log-likelihood | by top-1 |",
        "|---|---|---|---|---|---|",
    ]
    names = ("apart", "step", "statistics")
    for key in dict.fromkeys(tuple(r[name] for name in names) for r in scores):
        own = [r for r in scores if tuple(r[name] for name in names) == key]
        taus: dict[str, list[float]] = {"log_likelihood": [], "top1": []}
        for seed in sorted({r["seed"] for r in own}):
            rows = [r for r in own if r["seed"] == seed]
            truth = [statistics.mean(top1[r["sha256"]]) for r in rows]
            for column, values in taus.items():
                tau = kendalltau(truth, [float(r[column]) for r in rows]).statistic
                values.append(float(tau))
        cells = [key[0] or "nothing", key[1], key[2], str(len(taus["top1"]))]
        for values in taus.values():
            known = [v for v in values if not math.isnan(v)]
            single = ", ".join(f"{v:.2f}" for v in known)
            cells.append(f"{statistics.mean(known):.2f} ({single})" if known else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def page() -> str:
    """The page for people."""
    first: Row = read(SEARCHES)[0]
    lines = [
        "# Strategies side by side",
        "",
        "Made by `benchmarks/search_report.py` from `searches.csv`, `search_histories.csv` and",
        "`retrained.csv`, which `make bench-search` writes. `tiny` at 32 px within 6 M MACs,",
        "tiny-imagenet-25 (12,500 training and 1,250 validation pictures). Every architecture",
        f"found is trained from scratch for {RECIPE.epochs} epochs with one recipe. One thread a",
        f"job, two jobs at a time on {first['machine'].split(',')[1].strip()}, "
        f"torch {first['torch']}.",
        "",
        *strategy_table("tiny"),
        "",
        *ratios("tiny"),
        "",
        "`parsec` draws the same number in every step, as published; with our warm-up it draws one",
        "in the first 600. `fpnas` and `parsec` ran side by side, with tests beside them now and",
        "then. The others ran before, with an engine that did not keep activations; seed 0 of them",
        "beside other jobs, which doubled its seconds. The longer warm-up has "
        f"{VARIANTS['fpnas, longer warm-up'].coarse['warmup_steps']:,} steps;",
        "its seconds are those of a busy machine. Where CPU time is given, layers ran in place and",
        "the machine was busy, which lengthens CPU time too: that of `dnas` more than that of",
        "`fpnas`, which ran later. The figure takes CPU time where there is one.",
        "",
        *random_section(),
        *rank_section(),
        *truth_section(),
        "`dnas` runs few steps, since each costs as much as about forty of an architecture's;",
        "its samples are Gumbel draws of the whole supernet. `random` and `evolution` train the",
        "shared weights on uniform samples and then score 150 architectures.",
        "",
        "![Accuracy against cost, samples against time, entropy and K](search.png)",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page and the figure."""
    draw("tiny")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
