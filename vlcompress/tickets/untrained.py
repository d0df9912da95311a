"""What a checkpoint scores on the task before anything is trained: zero-shot, where it can answer at all."""

from vlcompress.errors import VlcompressError
from vlcompress.models.encoder.adapter import CHECKPOINT
from vlcompress.models.encoder.zero_shot import PROMPT, name_classes
from vlcompress.tickets.experiment import Experiment, build_model
from vlcompress.tickets.spec import Trial
from vlcompress.training.loop import evaluate


def tell_untrained(experiment: Experiment) -> None:
    """Say the zero-shot score of a published encoder: by two towers' products, a matching head, or the classes' names.

    A score beside the trained ones. Encoders whose head is new to the task have none; a classifier starts from its own
    where the recipe says so (`model.head` "names").
    """
    kind, checkpoint, asked = experiment.train_task.head.kind, experiment.checkpoint, experiment.recipe.model.head
    named = kind == "classes" and experiment.config.get("dual") and experiment.recipe.data.task == "classification"
    if experiment.recipe.model.size != CHECKPOINT or checkpoint is None:
        return
    if not (named or kind == "embeddings" or experiment.family.inherited):
        return
    model = build_model(experiment, Trial(experiment.recipe.pruning.seeds[0]))
    try:
        if named and asked != "names":
            name_classes(model, checkpoint, experiment.train_task.head.labels)
    except VlcompressError as error:
        experiment.say(f"no zero-shot score: {error}")
        return
    scores = evaluate(model.to(experiment.compute.torch_device), experiment.score_task, compute=experiment.compute)
    start = "training starts from it" if asked == "names" else "--head names would start from it"
    how = f", the classes named '{PROMPT}' ({start})" if named else ""
    experiment.say(f"before any training, zero-shot: {experiment.score_task.metric} {100 * scores.mean:.2f}{how}")
