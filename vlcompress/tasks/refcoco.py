"""RefCOCO, RefCOCO+ and RefCOCOg: which region does an expression mean; the metric is IoU above 0.5.

Trained on the regions of the annotated boxes; scored on the detector's (the papers' val^d, testA^d, testB^d), and on
the annotated ones beside it (ChenRocks/UNITER). Boxes are (x, y, width, height) in pixels.

Shapes: B batch, R regions.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from vlcompress.data.examples import HIDDEN, ReferringExample, TaskData
from vlcompress.data.regions import Regions
from vlcompress.models.base import Head
from vlcompress.models.objective import Batch
from vlcompress.tasks.base import Answer, LogitLoss, PerExampleTask, Scores
from vlcompress.tasks.metrics.refcoco import HIT, iou
from vlcompress.tasks.preprocessing import Preprocessor
from vlcompress.tasks.submission import json_rows


class Expressions(PerExampleTask):
    """Expressions of some splits with one kind of regions.

    Args:
        data: the expressions.
        preprocessor: makes batches of them.
        ground_truth: whether the regions are those of the annotated boxes, or the detector's.
    """

    metric = "IoU above 0.5"
    head = Head("region")

    def __init__(self, data: TaskData[ReferringExample], preprocessor: Preprocessor, *, ground_truth: bool) -> None:
        super().__init__(data, preprocessor)
        self._ids = preprocessor.ids([example.text for example in data.examples])
        self._ground_truth = ground_truth

    @property
    def hidden(self) -> bool:
        """Whether an example has no published box."""
        return any(example.target == HIDDEN for example in self._examples)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Make the batch of these expressions; `rng` is not used.

        Targets: "boxes" float32 [B, R, 4], zeros where padded; "box" float32 [B, 4], the one meant; "region" int64 [B],
        its row among the annotated boxes.
        """
        examples = [self._examples[index] for index in indices]
        images = [self._regions(example.image) for example in examples]
        samples = [
            self._preprocessor.sample(self._ids[index], image) for index, image in zip(indices, images, strict=True)
        ]
        targets = {
            "boxes": pad_sequence([torch.tensor(image.pixel_boxes) for image in images], batch_first=True),
            "box": torch.tensor([example.box for example in examples], dtype=torch.float32),
            "region": torch.tensor([example.target for example in examples]),
        }
        return Batch(self._preprocessor.batch(samples), targets)

    def judge(self, logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score 1 for each best region that overlaps the box meant by more than half, and name that region's row."""
        best_B = logits.argmax(dim=1)
        return (iou(_chosen(targets["boxes"], best_B), targets["box"]) > HIT).float(), best_B

    def constant(self) -> float:
        """Score the place among an image's regions that is best for all expressions together."""
        boxes = {name: torch.tensor(self._regions(name).pixel_boxes) for name in {one.image for one in self._examples}}
        hits = [(iou(boxes[one.image], torch.tensor(one.box)) > HIT).float() for one in self._examples]
        return float(pad_sequence(hits, batch_first=True).mean(dim=0).max())

    def _regions(self, name: str) -> Regions:
        image = self._preprocessor.image(name, ground_truth=self._ground_truth)
        assert isinstance(image, Regions)
        return image


class RefcocoTraining(LogitLoss, Expressions):
    """Expressions to learn from, on the annotated boxes."""

    def __init__(self, data: TaskData[ReferringExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor, ground_truth=True)

    def loss_of(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compute the cross entropy over an image's regions, summed over B as officially."""
        return cross_entropy(logits, targets["region"], reduction="sum")

    def share(self, part: Batch) -> float:
        """See `Divisible`: the loss is a sum."""
        return 1.0


class RefcocoTask(Expressions):
    """Expressions to be scored on the detector's regions."""

    metric = "RefCOCO accuracy (detected boxes)"

    def __init__(self, data: TaskData[ReferringExample], preprocessor: Preprocessor) -> None:
        super().__init__(data, preprocessor, ground_truth=False)
        self._on_annotated = Expressions(data, preprocessor, ground_truth=True)

    def measure(self, answer: Answer, *, batch: int) -> Scores:
        """Score every expression; predictions are rows of the detected regions."""
        scores = super().measure(answer, batch=batch)
        annotated = self._on_annotated.measure(answer, batch=batch)
        return dataclasses.replace(scores, figures={"ground-truth boxes": annotated.mean})

    def submission(self, answer: Answer, *, batch: int) -> bytes:
        """Write what UNITER's ``inf_re.py`` writes: [{"sent_id", "pred_box", "tgt_box"}], boxes x, y, width, height."""
        boxes = [
            box
            for logits, targets in self.answered(answer, batch=batch)
            for box in _chosen(targets["boxes"], logits.argmax(dim=1)).tolist()
        ]
        rows = ((one.id, box, list(one.box)) for one, box in zip(self._examples, boxes, strict=True))
        return json_rows(("sent_id", "pred_box", "tgt_box"), rows)


def _chosen(boxes_BR4: Tensor, rows_B: Tensor) -> Tensor:
    return boxes_BR4[torch.arange(len(rows_B)), rows_B]
