"""Figure 8 of Gan et al. (AAAI 2022): how much do the tickets of different tasks and seeds have in common?

Overlap is |A and B| / |A or B| over kept weights (Jaccard). Two independent random masks of density d overlap by
d / (2 - d), which stands beside every figure: without it a number says nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from vlcompress.models.registry import modality_of
from vlcompress.pruning.mask import Masks
from vlcompress.report.table import Table
from vlcompress.studies.base import Choices, StudyCell, StudyReport, StudyRunner
from vlcompress.studies.curves import imp_rows, masks_of, trainings_of
from vlcompress.studies.similarity import chance, overlap
from vlcompress.studies.tickets import ticket_recipe

LEVEL = 0.6
CLAIMS = (
    "Gan et al. (2022), figure 8 (heat maps without numbers): the mask of pre-training is closest to those of VQA, "
    "NLVR2 and visual entailment, and least like those of GQA, RefCOCO+ and retrieval. No chance level is given.",
)


@dataclass(frozen=True)
class Pair:
    """What two masks have in common: overlap and chance of the whole, and both of each part of the model by name."""

    name: str
    overlap: float
    chance: float
    parts: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Pairs:
    """Every two of the masks of one sparsity."""

    level: float
    pairs: tuple[Pair, ...]


class Overlap:
    """See the top of the file."""

    name = "overlap"
    title = "what masks have in common, by layer and modality, beside chance (Gan et al. 2022, figure 8)"

    def cells(self, choices: Choices) -> Sequence[StudyCell]:
        """Plan one cell: masks of all tasks and seeds are compared with each other."""
        level = max(choices.levels or (LEVEL,))
        recipes = {task: ticket_recipe(choices, task, (level,)) for task in choices.tasks}

        def work(runner: StudyRunner) -> Pairs:
            jobs = {
                f"{task} seed {seed}": partial(imp_rows, runner.bench(recipes[task]), seed)
                for task in recipes
                for seed in choices.seeds
            }
            found = runner.engine.together(list(jobs.values()))
            masks = {name: masks_of(rows)[-1] for name, rows in zip(jobs, found, strict=True)}
            return Pairs(level, tuple(_pair(one, other, masks) for one, other in combinations(masks, 2)))

        count = sum(trainings_of(recipe, (), 0) for recipe in recipes.values())
        return [StudyCell("masks", next(iter(recipes.values())), count, work)]

    def report(self, results: Mapping[str, Pairs]) -> StudyReport:
        """Lay out every pair's overlap beside chance, whole and by part of the model."""
        pairs = results["masks"].pairs if "masks" in results else ()
        parts = list(pairs[0].parts) if pairs else []
        header = ("pair", "overlap", "chance", *(f"{part} (chance)" for part in parts))
        rows = tuple(
            (
                pair.name,
                f"{pair.overlap:.3f}",
                f"{pair.chance:.3f}",
                *(f"{pair.parts[part][0]:.3f} ({pair.parts[part][1]:.3f})" for part in parts),
            )
            for pair in pairs
        )
        above = sum(pair.overlap > pair.chance for pair in pairs)
        findings = (f"{above} of {len(pairs)} pairs of masks have more in common than chance gives.",) if pairs else ()
        return StudyReport(findings, (Table("Overlap of kept weights (Jaccard)", header, rows),), claims=CLAIMS)


def _pair(one: str, other: str, masks: Mapping[str, Masks]) -> Pair:
    both = [masks[one], masks[other]]
    modalities: dict[str, list[str]] = {}
    for name in both[0]:
        modalities.setdefault(modality_of(name), []).append(name)
    of_parts = {
        modality: [Masks({name: one[name] for name in names}) for one in both] for modality, names in modalities.items()
    }
    parts = {part: (overlap(masks), chance(masks)) for part, masks in of_parts.items()}
    return Pair(f"{one} and {other}", overlap(both), chance(both), parts)
