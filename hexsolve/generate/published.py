"""The paper's workloads from published means. Knows the means of FIELD §1; the shapes around them are our choice.

Mean calls per workflow, prompt and output tokens per call (Autellix, arXiv 2502.13965; used by HexAGenT, arXiv
2605.16637): ShareGPT 6.66 / 256 / 277, BFCL-v3 10.75 / 735 / 34, LATS 159.7 / 467 / 73. Only these are published. Ours:

* token counts are log-normal with the coefficient of variation given per workload (chat lengths are heavy-tailed, CV
  above 1; function-calling prompts hold the same tool descriptions, CV 0.5), half of the log-variance per workflow;
* calls per chat are geometric (CV 0.92), per function-calling chain 1 + negative binomial with CV near 0.5;
* LATS: rounds of a Monte-Carlo tree search; a round expands w children (w = 1 + Binomial(8, 1/2), mean 5) and values
  each; the next round waits for all values (back-propagation). Rounds are 1 + negative binomial of mean 14.97;
* tool delays are 0 and there is no prefix reuse: nothing about either is published.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hexsolve.generate.builder import CallList
from hexsolve.generate.figures import whole_tokens

_WORKFLOW_SHARE = 0.5  # share of the log-variance of token counts that all calls of a workflow have in common


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal token counts by mean and coefficient of variation, correlated within a workflow."""

    mean: float
    cv: float

    def tokens(self, factor: float, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`size` token counts (>= 1) of one workflow whose standard normal common factor is `factor`."""
        variance = math.log1p(self.cv**2)
        score = math.sqrt(_WORKFLOW_SHARE) * factor + math.sqrt(1 - _WORKFLOW_SHARE) * rng.standard_normal(size)
        return whole_tokens(self.mean * np.exp(math.sqrt(variance) * score - variance / 2))


def sharegpt(rng: np.random.Generator) -> CallList:
    """Chat chain."""
    return _chain(rng, "turn", int(rng.geometric(1 / 6.66)), LogNormal(256, 1.2), LogNormal(277, 1.0))


def bfcl(rng: np.random.Generator) -> CallList:
    """Function-calling chain: short outputs, so that calls are revealed often."""
    num = 1 + _negative_binomial(rng, mean=9.75, shape=5.0)
    return _chain(rng, "function_call", num, LogNormal(735, 0.5), LogNormal(34, 0.8))


def lats(rng: np.random.Generator) -> CallList:
    """Monte-Carlo tree search: rounds of parallel expansions and their values, joined between rounds."""
    calls = CallList()
    prompt_factor, output_factor = rng.standard_normal(2).tolist()
    last: tuple[str, ...] = ()
    for _ in range(1 + _negative_binomial(rng, mean=159.7 / 10 - 1, shape=4.0)):
        width = 1 + int(rng.binomial(8, 0.5))
        prompts = LogNormal(442, 0.5).tokens(prompt_factor, width, rng)
        outputs = LogNormal(96, 0.8).tokens(output_factor, width, rng)
        expanded = calls.stage("expand", prompts.tolist(), outputs.tolist(), last)
        prompts = LogNormal(492, 0.5).tokens(prompt_factor, width, rng)
        outputs = LogNormal(50, 0.8).tokens(output_factor, width, rng)
        values = zip(expanded, prompts.tolist(), outputs.tolist(), strict=True)
        last = tuple(calls.add("value", prompt, output, (parent,)) for parent, prompt, output in values)
    return calls


def _chain(rng: np.random.Generator, kind: str, num: int, prompt: LogNormal, output: LogNormal) -> CallList:
    calls = CallList()
    prompt_factor, output_factor = rng.standard_normal(2).tolist()
    prompts = prompt.tokens(prompt_factor, num, rng)
    outputs = output.tokens(output_factor, num, rng)
    last: tuple[str, ...] = ()
    for tokens, generated in zip(prompts.tolist(), outputs.tolist(), strict=True):
        last = (calls.add(kind, tokens, generated, last),)
    return calls


def _negative_binomial(rng: np.random.Generator, *, mean: float, shape: float) -> int:
    """Counts with this mean and variance mean + mean²/shape."""
    return int(rng.negative_binomial(shape, shape / (shape + mean)))
