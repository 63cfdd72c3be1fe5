"""The figures: every run as a row of a file, and medians as a table in Markdown."""

import dataclasses
import statistics

COLUMNS = ["wall s", "CPU s", "memory MiB", "requests", "sent MB", "received MB", "waits"]


class Report:
    """Collects samples in the order in which they come."""

    def __init__(self, path):
        self.file = open(path, "w")
        self.samples = {}  # measure -> contestant's name -> list of samples

    def add(self, measure, contestant, run, sample):
        values = dataclasses.asdict(sample)
        if self.file.tell() == 0:
            self._row("measure", "contestant", "run", *values)
        self._row(measure.name, contestant.name, run, *(round(value, 4) for value in values.values()))
        self.samples.setdefault(measure, {}).setdefault(contestant.name, []).append(sample)

    def _row(self, *cells):
        print(*cells, sep="\t", file=self.file, flush=True)

    def table(self):
        rows = [["measure", "contestant", *COLUMNS]]
        rows += [row for measure in self.samples for row in self._rows(measure)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        # Words to the left, figures to the right.
        aligned = lambda row: [cell.ljust(w) if at < 2 else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths))]
        lines = ["| " + " | ".join(aligned(row)) + " |" for row in rows]
        rule = "|" + "|".join("-" * (w + 2) if at < 2 else "-" * (w + 1) + ":" for at, w in enumerate(widths)) + "|"
        return "\n".join([lines[0], rule, *lines[1:]])

    def _rows(self, measure):
        medians = {name: median(samples) for name, samples in self.samples[measure].items()}
        reference = medians.get("walden")
        for at, (name, sample) in enumerate(medians.items()):
            title = measure.title if at == 0 else ""
            yield [title, name, *figures(sample, reference if name != "walden" else None, measure.act == "fetch_paced")]


def median(samples):
    """A sample of the medians of each figure; of the memory the largest."""
    fields = {name: statistics.median(getattr(s, name) for s in samples) for name in dataclasses.asdict(samples[0])}
    return dataclasses.replace(samples[0], **fields | {"memory": max(sample.memory for sample in samples)})


def figures(sample, reference, paced):
    """The cells of a row; times with their ratio to the reference's."""
    ratio = lambda ours, theirs: f" ({ours / theirs:.2f}x)" if reference and theirs else ""
    return [
        f"{sample.wall:.3f}" + ratio(sample.wall, reference and reference.wall),
        f"{sample.cpu:.3f}" + ratio(sample.cpu, reference and reference.cpu),
        f"{sample.memory:.0f}" if sample.memory else "",
        f"{sample.requests:.0f}",
        f"{sample.sent / 1e6:.2f}",
        f"{sample.received / 1e6:.2f}",
        f"{sample.waits:.0f} ({sample.waited:.2f} s)" if paced else "",
    ]
