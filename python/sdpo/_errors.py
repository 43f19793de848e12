"""Error classes: every error carries the stable `code` of the TypeScript package and names the argument, what was expected and what came."""

from __future__ import annotations


class SdpoError(Exception):
    """Base of all errors of this package. `code` is one of the ERR_SDPO_… codes of docs/api.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SdpoTypeError(SdpoError, TypeError):
    """An argument of the wrong type or kind (TypeError in JavaScript)."""


class SdpoRangeError(SdpoError, ValueError):
    """An argument of the right type whose value or length is not acceptable (RangeError in JavaScript, ValueError here)."""


class NonFiniteError(SdpoError):
    """Raised with `non_finite="throw"` for the first row, in row order, that has a non-finite value.

    `row` is its index, `branch` "chosen" or "rejected", `tensor` "policy", "reference", "target", "reference_error" or "row" (the
    tensors are finite but the row's arithmetic overflowed), `element` the index within the row in the order of memory, or -1.
    """

    def __init__(self, row: int, branch: str, tensor: str, element: int) -> None:
        if tensor == "row":
            where = f"the finite tensors of row {row} ({branch}), received values whose squared errors or loss overflow"
        else:
            at = f" at element {element}" if element >= 0 else ""
            where = f"row {row} of {branch}.{tensor}, received a non-finite value{at}"
        super().__init__(
            "ERR_SDPO_NON_FINITE",
            f"Expected only finite values in {where} (non_finite='skip' removes such rows, 'propagate' lets them through)",
        )
        self.row = row
        self.branch = branch
        self.tensor = tensor
        self.element = element
