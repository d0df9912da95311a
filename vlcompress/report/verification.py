"""What a check of an exported file found, for the terminal; without torch, as the check of a copied folder is."""

from vlcompress.export.verification import TaskScore, VerifyResult


def verify_text(found: VerifyResult) -> str:
    """Say that a file still answers as its PyTorch model does."""
    lines = [
        f"{name}: {parity.samples} examples, answers agree on {100 * parity.answer_agreement:.1f} %, "
        f"max abs error {parity.max_abs_error:.1e}, relative {parity.max_rel_error:.1e}"
        for name, parity in found.parity.items()
    ]
    where = f"{found.precision} on provider {found.provider}"
    return "\n".join([*lines, *task_line(found.task_score), *_placement(found), f"verified ({where}): {found.file}"])


def _placement(found: VerifyResult) -> list[str]:
    """Say which provider took how many nodes, and what kinds of them were left to the CPU."""
    lines = []
    for name, kinds in (found.placement or {}).items():
        left = f" ({', '.join(kinds)})" if name == "CPUExecutionProvider" else ""
        lines.append(f"{name}: {sum(kinds.values())} nodes{left}")
    return lines


def task_line(task: TaskScore | None) -> list[str]:
    """Say what a file of lower precision scores on its task, where that was measured."""
    if task is None:
        return []
    return [
        f"score on the task: {100 * task.file:.2f}, float32 {100 * task.fp32:.2f}, "
        f"a drop of {100 * task.drop:.2f} points"
    ]
