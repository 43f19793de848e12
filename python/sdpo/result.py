"""What a call of the loss gives: the loss, one tensor per row statistic, metrics, and their means over all ranks of a process group."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import torch

from ._tables import LOG_NAMES, METRIC, METRICS, ROW_OUTPUT, ROW_STATISTICS
from .moments import COEFFICIENT_NAMES


class PreferenceOutput:
    """Result of PreferenceLoss. Nothing in it was waited for: on a CUDA device every number is still a tensor there.

    loss: 0-dim ([rows] with reduction="none"), float64 for float64 predictions and float32 otherwise; differentiable with respect to the policy.
    rows: float64 [rows] per statistic, under the names of docs/api.md in snake_case ("logit", "mask", "reward_chosen", …).
    metrics: 0-dim float64 each: means of the row statistics over their finite entries, and "implicit_accuracy", "reward_margin",
        "mask_fraction", "clip_fraction", "log_ratio_clip_fraction", "non_finite_rows".
    coefficients: float64 [rows] each: "a_chosen", "a_rejected", "b_chosen", "b_rejected", with which the gradient with respect to the
        policy is (2/D)(a d + b h) (docs/mathematics.md, section 5).

    The dictionaries are made when they are looked at.
    """

    def __init__(self, loss: torch.Tensor, row_outputs: torch.Tensor, metrics: torch.Tensor, complete: Optional[Callable[..., Any]] = None) -> None:
        self.loss = loss
        self._row_outputs = row_outputs
        self._metrics = metrics
        self._complete = complete  # fills in the statistics that the loss did not need

    def _outputs(self) -> Tuple[torch.Tensor, torch.Tensor]:
        if self._complete is not None:
            self._row_outputs, self._metrics = self._complete(self._row_outputs.detach())
            self._complete = None
        return self._row_outputs.detach(), self._metrics.detach()

    @property
    def rows(self) -> Dict[str, torch.Tensor]:
        values, _ = self._outputs()
        return {name: values[ROW_OUTPUT[name]] for name in ROW_STATISTICS}

    @property
    def metrics(self) -> Dict[str, torch.Tensor]:
        _, values = self._outputs()
        return {name: values[METRIC[name]] for name in METRICS}

    @property
    def coefficients(self) -> Dict[str, torch.Tensor]:
        values = self._row_outputs.detach()
        return {name: values[ROW_OUTPUT[name]] for name in COEFFICIENT_NAMES}

    def backward(self, gradient: Optional[torch.Tensor] = None, retain_graph: Optional[bool] = None) -> None:
        """`loss.backward(…)`."""
        self.loss.backward(gradient, retain_graph=retain_graph)

    def __repr__(self) -> str:
        return f"PreferenceOutput(loss={self.loss!r})"

    def reduce_metrics(self, group: Any = None) -> Dict[str, torch.Tensor]:
        """The metrics of the rows of all ranks of `group` (default: the world), the same on every rank.

        Means are over rows, so that a rank with more rows counts for more and one without rows for nothing; entries that are not finite
        are left out, as in `metrics`. One all_reduce. Without an initialised process group, the metrics of this rank.
        """
        sums, counts = zip(*(self._sum_and_count(name) for name in METRICS))
        packed = torch.stack([*sums, *counts])
        packed = _all_reduce(packed, group)
        total, count = packed[: len(METRICS)], packed[len(METRICS) :]
        reduced = {}
        for i, name in enumerate(METRICS):
            if name == "non_finite_rows":
                reduced[name] = total[i]
            elif name in ("clip_fraction", "log_ratio_clip_fraction"):
                reduced[name] = total[i] / count[i].clamp(min=1)
            else:
                reduced[name] = total[i] / count[i]  # 0/0 is NaN, as for a statistic without a finite entry
        return reduced

    def _sum_and_count(self, name: str) -> Any:
        rows = self.rows
        if name in ROW_STATISTICS:
            values = rows[name]
        elif name in ("implicit_accuracy", "reward_margin"):
            values = rows["reward_chosen"] - rows["reward_rejected"]
            if name == "implicit_accuracy":
                values = won(values)
        elif name == "mask_fraction":
            values = 1 - rows["mask"]
        else:  # shares and counts whose rows are not public: one number for all rows
            count = torch.full_like(self.metrics[name], rows["mask"].numel())
            return (self.metrics[name] if name == "non_finite_rows" else self.metrics[name] * count), count
        finite = torch.isfinite(values)
        return torch.where(finite, values, torch.zeros_like(values)).sum(), finite.sum().to(torch.float64)

    def log_entries(self, metrics: Any = None) -> Dict[str, float]:
        """Metrics (default: of this rank) as plain numbers, rewards under TRL's names ("rewards/chosen", …). One copy from the device."""
        return log_entries(self.metrics if metrics is None else metrics)


def won(margin: torch.Tensor) -> torch.Tensor:
    """1 where the chosen reward is the higher one, 0 where it is not, 1/2 for a tie; NaN where a reward is missing, which torch.sign calls 0."""
    return torch.where(torch.isnan(margin), margin, (torch.sign(margin) + 1) / 2)


def log_entries(metrics: Mapping[str, torch.Tensor]) -> Dict[str, float]:
    """Metrics as plain numbers for a logger, rewards under TRL's names. One copy from the device for all of them."""
    numbers = torch.stack([metrics[name] for name in METRICS]).tolist()
    return {LOG_NAMES[name]: number for name, number in zip(METRICS, numbers)}


def denominator(rows: int, group: Any = None) -> float:
    """What each rank passes as `denominator` where ranks have different numbers of rows: all rows of `group` divided by its ranks.

    DistributedDataParallel averages gradients over ranks; with this denominator the average is the gradient of the mean over all rows.
    It is one all_reduce whose result is waited for; where the sampler knows the number of rows, compute it there instead.
    """
    if not _distributed():
        return float(rows)
    total = _all_reduce(torch.tensor([float(rows)], dtype=torch.float64, device="cpu"), group)
    return total.item() / torch.distributed.get_world_size(group)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _all_reduce(tensor: torch.Tensor, group: Any) -> torch.Tensor:
    if not _distributed():
        return tensor
    if "nccl" in torch.distributed.get_backend(group) and tensor.device.type == "cpu":
        tensor = tensor.cuda()  # nccl reduces device memory only
    torch.distributed.all_reduce(tensor, group=group)
    return tensor
