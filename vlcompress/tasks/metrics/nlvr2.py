"""NLVR2's consistency (lil-lab/nlvr ``nlvr2/eval/metrics.py``); its accuracy is the mean of right answers."""

from collections.abc import Sequence


def consistency(right: Sequence[bool], groups: Sequence[str]) -> float:
    """Compute the share, in [0, 1], of sentences that are judged rightly with every pair of images they are shown with.

    Args:
        right: whether each example was answered rightly.
        groups: what sentence each example is of (`vlcompress.data.examples.PairExample.group`).
    """
    whole: dict[str, bool] = {}
    for one, group in zip(right, groups, strict=True):
        whole[group] = whole.get(group, True) and one
    return sum(whole.values()) / len(whole)
