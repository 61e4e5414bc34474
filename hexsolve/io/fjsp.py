"""Reader for flexible job-shop instances (.fjs text). Knows that format; knows nothing of LLMs.

The first line says "jobs machines" (a third number, the mean of options, is passed over); then each job: "operations",
and per operation "options (machine duration)…". Line breaks count as blanks. Operations of a job run one after the
other, each on one of its machines, one operation at a time on a machine; the makespan is to be small.

As an `OfflineProblem` all jobs are one workflow that arrives at tick 0 with a reference of one tick, so that its
stretch is the makespan; an operation is a prefill without transfer, decode and KV.
"""

from pathlib import Path

import numpy as np

from hexsolve.errors import InputError
from hexsolve_models.offline import OfflineProblem


def read_fjsp(path: str | Path) -> OfflineProblem:
    """The instance in a file; see `parse_fjsp`.

    Raises
    ------
    InputError
        If the file cannot be read or is not right.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a flexible job-shop instance: {error}") from None
    return parse_fjsp(text, str(path))


def parse_fjsp(text: str, name: str) -> OfflineProblem:
    """The instance in `text`; calls are operations, job after job. `name` is for messages.

    Machines count from 1, as in the literature, or from 0, as in collections of today: from 0 if machine 0 occurs.

    Raises
    ------
    InputError
        On a number that is missing, left over or out of range; the message says where.
    """
    header, *_ = text.lstrip().splitlines() or [""]
    numbers = _Numbers(" ".join(text.split()[len(header.split()) :]), name)
    sizes = _Numbers(header, f"{name}: first line")
    num_jobs, num_machines = sizes.take("jobs", 1), sizes.take("machines", 1)
    jobs = [_job(numbers, f"job {job}", num_machines) for job in range(num_jobs)]
    numbers.finish()
    options = [operation for job in jobs for operation in job]
    first = 0 if any(machine == 0 for operation in options for machine, _ in operation) else 1
    ticks = np.full((len(options), num_machines), -1, dtype=np.int64)
    for c, operation in enumerate(options):
        for machine, duration in operation:
            if machine - first >= num_machines:
                raise InputError(
                    f"{name}: operation {c}: machine {machine}: expected {first}..{num_machines - 1 + first}"
                )
            ticks[c, machine - first] = duration
    ends = np.cumsum([len(job) for job in jobs])
    before = np.setdiff1d(np.arange(len(options)), ends - 1)
    none, one = np.zeros(len(options), dtype=np.int64), np.ones(1, dtype=np.int64)
    no_decode = np.zeros((len(options), 1), dtype=np.int64)
    return OfflineProblem(
        workflow=none,
        release_tick=np.zeros(1, dtype=np.int64),
        reference_ticks=one,
        edge_before=before,
        edge_after=before + 1,
        edge_lag=np.zeros_like(before),
        ready_lag=none,
        prefill_ticks=ticks,
        transfer_base_ticks=np.zeros((num_machines, 1), dtype=np.int64),
        transfer_rate_ticks=np.zeros((num_machines, 1), dtype=np.int64),
        transfer_blocks=none,
        decode_ticks=no_decode,
        decode_work=no_decode,
        kv_blocks=none,
        kv_capacity=one,
    )


class _Numbers:
    """The numbers of a text, one after the other."""

    def __init__(self, text: str, name: str) -> None:
        self._words, self._at, self._name = text.split(), 0, name

    def take(self, what: str, lowest: int) -> int:
        """The next number, an integer >= `lowest`."""
        if self._at == len(self._words):
            raise InputError(f"{self._name}: {what}: expected a number, got the end")
        word = self._words[self._at]
        self._at += 1
        if not word.isdecimal() or int(word) < lowest:
            raise InputError(f"{self._name}: {what}: expected an integer >= {lowest}, got {word!r}")
        return int(word)

    def finish(self) -> None:
        """There has to be nothing left."""
        if self._at < len(self._words):
            raise InputError(f"{self._name}: expected the end after the last job, got {self._words[self._at]!r}")


def _job(numbers: _Numbers, where: str, num_machines: int) -> list[list[tuple[int, int]]]:
    """By operation its (machine, duration) options."""
    operations = []
    for i in range(numbers.take(f"{where}: operations", 1)):
        place = f"{where}, operation {i}"
        count = numbers.take(f"{place}: options", 1)
        if count > num_machines:
            raise InputError(f"{place}: options: expected at most {num_machines}, got {count}")
        operations.append(
            [(numbers.take(f"{place}: machine", 0), numbers.take(f"{place}: duration", 0)) for _ in range(count)]
        )
    return operations
