"""Back-ends: one small module per solver, each turning a formulation and limits into a `NativeOutcome`."""

from hexsolve.backends.outcome import Limits, ModelError, NativeOutcome

__all__ = ["Limits", "ModelError", "NativeOutcome"]
