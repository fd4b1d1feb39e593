"""Turn what benchmarks.quality finds into docs/quality.md."""

from __future__ import annotations

from benchmarks.page import join, machine_table, table, verdict
from benchmarks.quality.records import Mean, Records
from benchmarks.quality.tasks import ALL_LEVELS, DENSE, TASKS, Task

__all__ = ["METHODS", "render"]

# Every way of training, by the name it has in the figures.
METHODS = {
    "zeroed": "zeroing alone",
    "separate": "independent",
    "nested": "nested",
    "no-joint": "nested, no joint phase",
    "shared": "nested, --norm shared",
    "unfrozen": "not frozen",
    "longer": "dense alone, as long",
}
VARIANTS = ("nested", "no-joint", "shared")
GOALS = {"0.95": -0.3, "0.9": -0.3, "0.7": 0.0, "0.5": 0.0, DENSE: 0.0}  # points

INTRODUCTION = """\
Written by `python -m benchmarks.quality`; the figures behind it are in
[quality.json](quality.json). The question: what do networks lose by living in one file, where each
contains the next sparser one, weight for weight?

For each seed one dense network is trained by a plain loop, and masks are chosen by magnitude with
`elsa sparsify`. Everything starts from it:

- **zeroing alone**: the levels without any training.
- **independent**: each level trained by itself with its mask, by the same plain loop: five
  networks in five files.
- **nested**: one file from `elsa freeze-train`, with a joint phase; as many steps in all as the
  independent networks together.
- **nested, no joint phase** and **nested, --norm shared**: the same with that one difference, and
  as many steps.
- **not frozen**: the levels one after the other, sparsest first, without a joint phase and without
  freezing; measured once all are done.
- **dense alone, as long**: the dense network trained by the plain loop for as many steps as a whole
  nested run.
"""

METHOD = """\
- All use AdamW, the learning rate and weight decay of the table above, and a cosine to zero: over
  each phase in nested training, over each network in the others. Stages after a joint phase begin
  at a third of the learning rate, which is the tool's default.
- Options of nested training that the table does not name are the tool's defaults:
  {defaults}.
- ± is the standard deviation over seeds. A gap is taken seed by seed; beside it is the standard
  error of its mean (with one seed there is none). With so few seeds that error is itself uncertain,
  and a gap of less than twice its error cannot be told from none. Whether a goal is met is told by
  the mean alone.
- All seeds are measured on the same test data, so the standard errors say nothing about other data.
- Budgets are equal in steps of the whole set of levels. An independent network has the steps of its
  own level and trains all of its weights in them. A nested level starts from what the joint phase
  and the sparser levels' stages left, and trains in its own stage only the weights that it adds.
- Learning rates and epochs were set by hand after a few trials, the same for all ways of training;
  no way was tuned by itself. At other rates and lengths the gaps are others.
"""


def render(records: Records) -> str:
    """Return the page."""
    tasks = [task for name, task in TASKS.items() if name in records.plans]
    parts = ["# Quality", "", INTRODUCTION, "![Metric over sparsity](quality.png)", ""]
    for task in tasks:
        parts += _task(task, records)
    parts += ["## Budgets", "", _budgets(tasks, records), *machine_table(records.machine)]
    defaults = ", ".join(f"{k.replace('_', '-')} {v}" for k, v in records.defaults.items())
    parts += ["## How it was measured", "", METHOD.format(defaults=defaults)]
    return join(parts)


def _task(task: Task, records: Records) -> list[str]:
    """Return the sections of a task."""
    items = records.items[task.name]
    lines = [f"Measured: {task.unit}, on {items:,} {task.item}."]
    if task.higher:
        lines.append(f"One test image is {100 / items:.2g} points of one seed's accuracy.")
        lines += _sampling(task, records)
    else:
        lines.append("Less is better; gaps are turned around, so that + is better for nested.")
    seeds = {m.seed for m in records.found if m.task == task.name}
    lines.append(f"Seeds: {len(seeds)}.")
    unit = "points" if task.higher else task.unit
    return [
        f"## {task.title}",
        "",
        "\n".join(lines),
        "",
        _means(task, records),
        f"### {task.title}: nested minus independent, {unit}",
        "",
        _gaps(task, records),
        f"### {task.title}: what freezing holds, {unit}",
        "",
        "Each level at the end of its own stage, and how far it moved until the last stage ended.",
        "",
        _falls(task, records),
    ]


def _sampling(task: Task, records: Records) -> list[str]:
    """Return a sentence on what the size of the test data alone leaves open."""
    mean = records.mean(task.name, "separate", DENSE)
    if mean is None:
        return []
    share = mean.mean / 100
    error = 100 * (share * (1 - share) / records.items[task.name]) ** 0.5
    return [
        "The images are a sample: an accuracy such as the independent dense network's, "
        f"{mean.mean:.1f},\nhas a standard error of {error:.2g} points by their number alone."
    ]


def _means(task: Task, records: Records) -> str:
    rows = []
    for what, label in METHODS.items():
        row = [_mean(task, records.mean(task.name, what, level)) for level in ALL_LEVELS]
        rows.append([label, *row])
    return table(["", *ALL_LEVELS], rows)


def _gaps(task: Task, records: Records) -> str:
    sign = 1 if task.higher else -1
    head = ["level", "nested", *(["goal", "met"] if task.goals else [])]
    rows = []
    for level in ALL_LEVELS:
        gaps = [records.gaps(task.name, level, sign, what, "separate") for what in VARIANTS]
        row = [level, _gap(task, gaps[0])]
        if task.goals:
            goal = GOALS[level]
            met = "–"
            if gaps[0] is not None:
                met = verdict(round(gaps[0].mean, 9) >= goal)
            row += [f"≥ {goal:g}", met]
        rows.append([*row, *(_gap(task, gap) for gap in gaps[1:])])
    return table([*head, *(METHODS[what] for what in VARIANTS[1:])], rows)


def _falls(task: Task, records: Records) -> str:
    sign = 1 if task.higher else -1
    rows = []
    for level in ALL_LEVELS:
        row = [level]
        for what in ("nested", "unfrozen"):
            row.append(_mean(task, records.mean(task.name, f"{what} stage", level)))
            row.append(_gap(task, records.gaps(task.name, level, sign, what, f"{what} stage")))
        rows.append(row)
    return table(["level", "nested", "moved", "not frozen", "moved"], rows)


def _budgets(tasks: list[Task], records: Records) -> str:
    """Return how long everything was trained; from what was measured, not from what is planned."""
    head = ["task", "dense start", "each level alone", "nested: each level", "joint phase"]
    head += ["no joint phase: each level", "all levels together", "steps an epoch"]
    head += ["learning rate", "weight decay"]
    rows = []
    for task in tasks:
        plan = records.plans[task.name]
        epochs = plan["epochs"]
        row = [plan["start"], epochs, plan["stage_epochs"], plan["joint_epochs"], epochs]
        row += [len(ALL_LEVELS) * epochs, records.steps[task.name]]
        if plan["start_lr"] == plan["lr"]:
            rates = f"{plan['lr']:g}"
        else:
            rates = f"{plan['lr']:g}; dense start {plan['start_lr']:g}"
        rows.append([task.title, *(f"{x:g}" for x in row), rates, f"{plan['weight_decay']:g}"])
    return "Epochs:\n\n" + table(head, rows)


def _digits(task: Task) -> int:
    return 2 if task.higher else 3


def _mean(task: Task, mean: Mean | None) -> str:
    if mean is None:
        return "–"
    text = f"{mean.mean:.{_digits(task)}f}"
    return text if mean.deviation is None else f"{text} ± {mean.deviation:.{_digits(task)}f}"


def _gap(task: Task, gap: Mean | None) -> str:
    if gap is None:
        return "–"
    digits = _digits(task)
    text = f"{round(gap.mean, digits) + 0.0:+.{digits}f}"  # + 0.0: no -0.00
    return text if gap.error is None else f"{text} (error {gap.error:.{digits}f})"
