"""What runs with one set of whole weights."""

from dataclasses import dataclass

from meswitch.cuda.prompt_runner import PromptRunner
from meswitch.cuda.step_runner import StepRunner

__all__ = ["Runners"]


@dataclass(frozen=True, slots=True, eq=False)
class Runners:
    """Prompts and decode steps of the same weights; each is itself alone."""

    prompts: PromptRunner
    steps: StepRunner

    def warm_up(self) -> None:
        """Compile and capture all that can come."""
        self.prompts.warm_up()
        self.steps.warm_up()
