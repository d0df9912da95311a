"""The built-in data of the tasks beside VQA: each in a folder of its own, in the files that the benchmark publishes.

Every folder has ``vocab.txt`` (the VQA data's, so that one set of weights serves every task), ``data_report.json``
(what words alone, or chance, can score) and ``scenes.json`` (recipe, and sha256 of every other file). The rest is told
at the top of the task's file in `vlcompress.data.scenes.tasks`.
"""

from collections.abc import Callable
from pathlib import Path

from vlcompress.artefacts import Json, dumps, seal, write_file, writing
from vlcompress.data.scenes.tasks import classification, gqa, nlvr2, refcoco, retrieval, sentences, snli_ve, vcr
from vlcompress.data.scenes.tasks.folder import Folder, Size
from vlcompress.data.scenes.vocabulary import tokens
from vlcompress.errors import unknown

VERSION = 1
"""Changes whenever the same recipe would give other bytes."""

SIZES = {"tiny": Size(40, 16), "small": Size(2496, 1000)}

TASKS: dict[str, Callable[[Folder], Json]] = {
    "gqa": gqa.write,
    "nlvr2": nlvr2.write,
    "snli_ve": snli_ve.write,
    "vcr": vcr.write,
    "refcoco": refcoco.write,
    "retrieval": retrieval.write,
    "classification": classification.write,
    "sentences": sentences.write,
    **classification.others(),
}
"""The tasks that have built-in data beside VQA: each writes its files and gives its report."""


def make_benchmark(
    folder: Path | str, task: str, *, size: str = "small", seed: int = 0, processes: int | None = None
) -> Path:
    """Write a task's built-in data; the folder appears whole or not at all, and replaces one that was there.

    Args:
        folder: what to write.
        task: a key of TASKS.
        size: "tiny" (40 pictures to learn from, 16 in every other split) or "small" (2496 and 1000).
        seed: 0 or more.
        processes: how many to use; None chooses. The bytes do not depend on it.

    Returns:
        The folder.

    Raises:
        VlcompressError: unknown task or size, disk full, no permission.
    """
    if task not in TASKS:
        raise unknown("task with built-in data", task, TASKS)
    if size not in SIZES:
        raise unknown("size of the built-in data", size, SIZES)
    target = Path(folder)
    with writing(target) as root:
        report = TASKS[task](Folder(root, SIZES[size], seed, processes))
        (root / "vocab.txt").write_text("\n".join(tokens()) + "\n", encoding="utf-8")
        write_file(root / "data_report.json", dumps(report))
        seal(root, "scenes.json", {"recipe": {"task": task, "size": size, "seed": seed, "version": VERSION}})
    return target
