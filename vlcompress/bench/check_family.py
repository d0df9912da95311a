"""What `vlcompress check-family` tries: a family's contract, its tasks and its recipes."""

from vlcompress.bench.doctor import Check
from vlcompress.errors import unknown
from vlcompress.models.base import Family
from vlcompress.models.contract import BrokenClauseError, Finding, check_contract, judge, missing_attributes, require
from vlcompress.models.registry import FAMILIES
from vlcompress.recipe import default_recipe
from vlcompress.tasks.registry import TASKS


def check_family(name: str) -> list[Check]:
    """Hold a family to what the toolchain asks of it, on tiny models; takes a second.

    Args:
        name: as in `vlcompress.models.registry`.

    Raises:
        VlcompressError: no such family.
    """
    if name not in FAMILIES:
        raise unknown("model", name, FAMILIES)
    kind = FAMILIES[name]
    findings = check_contract(kind)
    if not missing_attributes(kind):
        findings += [judge("tasks", lambda: _tasks(name, kind)), judge("recipes", lambda: _recipes(kind))]
    return [_check(finding) for finding in findings]


def _check(finding: Finding) -> Check:
    return Check(finding.clause, "fail" if finding.fix else "ok", finding.what, finding.fix)


def _tasks(name: str, kind: type[Family]) -> str:
    require(kind.name == name, f"it is called '{kind.name}' and registered as '{name}'", "take one name")
    odd = [task for task in kind.tasks if task not in TASKS]
    require(kind.tasks and not odd, f"tasks {odd or 'are none'}", f"take some of {', '.join(TASKS)}")
    return ", ".join(kind.tasks)


def _recipes(kind: type[Family]) -> str:
    for task in kind.tasks:
        for size in kind.sizes:
            policy = default_recipe(kind.name, task, size).pruning.prunable
            if policy not in kind.policies:
                raise BrokenClauseError(
                    f"the recipe of {task}, {size} prunes by '{policy}'", f"take one of {', '.join(kind.policies)}"
                )
    return f"{len(kind.tasks) * len(kind.sizes)} recipes, one for each task and size"
