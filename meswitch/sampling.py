"""One request's choice of tokens: its own generator, so that no other request changes what it draws."""

import torch

from meswitch.core import SamplingParams

__all__ = ["Sampler"]


class Sampler:
    """Chooses the tokens of one request."""

    def __init__(self, params: SamplingParams) -> None:
        self.is_greedy = params.temperature == 0
        self._temperature = params.temperature
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token after `logits` `[V]`, where V is this expert's own vocabulary.

        V must not depend on the batch: a longer row would draw more random numbers.
        """
        if self.is_greedy:
            return int(logits.argmax())
        # the largest becomes 0 first: divided by a tiny temperature, the others may reach -inf, and none +inf or NaN
        scaled = (logits - logits.max()).double() / self._temperature
        probabilities = torch.softmax(scaled, dim=-1, dtype=torch.float32)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))
