"""What is said of a training under way: speed and time left, at a terminal and elsewhere, by a clock that is set."""

from dataclasses import replace

from tests.training.test_loop import HYPER
from vlcompress.cli.progress import Progress
from vlcompress.training.watching import Entry


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(progress: Progress, clock: Clock, steps: int, each: float, *, tokens: int = 0) -> None:
    progress.begin("seed 0 dense", replace(HYPER, steps=steps, batch=8, tokens=tokens))
    for step in range(1, steps + 1):
        clock.now += each
        progress.step(Entry(step, 1.5, 0.1, 1.0, 0.0, 0))
    progress.end()


def test_a_terminal_sees_every_step_with_speed_and_time_left() -> None:
    clock, said, shown = Clock(), list[str](), list[str]()
    progress = Progress(said.append, shown.append, clock)
    progress.plan(3)
    run(progress, clock, 100, 0.5)
    assert shown[0] == ("seed 0 dense: step 2/100, loss 1.500, 16 examples/s, 0:00:49 left (0:02:29 of all 3 at most)")
    assert shown[-1].endswith("0:00:00 left (0:01:40 of all 3 at most)")
    assert said == ["about 0:00:44 for this training, 0:02:24 for all 3 at most, scoring not counted"]
    run(progress, clock, 100, 0.5)
    assert shown[-1].endswith("0:00:00 left (0:00:50 of all 3 at most)")
    assert len(said) == 1


def test_elsewhere_a_line_a_minute() -> None:
    clock, said = Clock(), list[str]()
    progress = Progress(said.append, None, clock)
    progress.plan(1)
    run(progress, clock, 200, 1.0)
    assert said[0] == "about 0:03:14 for this training, scoring not counted"
    assert said[1:] == [
        "seed 0 dense: step 60/200, loss 1.500, 8 examples/s, 0:02:20 left",
        "seed 0 dense: step 120/200, loss 1.500, 8 examples/s, 0:01:20 left",
        "seed 0 dense: step 180/200, loss 1.500, 8 examples/s, 0:00:20 left",
    ]


def test_a_training_that_waits_for_its_examples_is_told_so() -> None:
    for waited, seconds, told in ((4.0, 20.0, True), (1.0, 20.0, False), (2.0, 4.0, False)):
        said = list[str]()
        progress = Progress(said.append, None, Clock())
        progress.begin("seed 0 dense", HYPER)
        progress.step(Entry(1, 1.5, 0.1, 1.0, seconds, 0, waited))
        progress.end()
        assert [line.partition(" of this")[0] for line in said] == ["warning: 20 %"] * told
    progress.begin("seed 1 dense", HYPER)
    progress.end()
    assert not said


def test_short_trainings_say_nothing_and_token_groups_count_steps() -> None:
    clock, said, shown = Clock(), list[str](), list[str]()
    run(Progress(said.append, None, clock), clock, 20, 0.1)
    assert said == []
    run(Progress(said.append, shown.append, clock), clock, 5, 0.5, tokens=5120)
    assert "2 steps/s" in shown[0]
