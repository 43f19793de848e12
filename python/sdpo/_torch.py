"""The loss in plain PyTorch: the mathematics of native/core once more, for devices and machines without the library, and to compare with.

Nothing here is shared with the native code but the protocol: moments of a row -> objective, with the coefficients A and B of the gradient
from automatic differentiation of the row's loss by its moments -> gradient (2/D)(A d + B h). Formulas: docs/mathematics.md.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch.nn.functional import softplus

from ._failures import is_throwing, throw_element_weights, throw_non_finite
from ._numbers import RowNumbers
from ._operands import Operands, branches_of, half
from ._options import Encoded, decode
from ._tables import METRIC, ROW_INPUT, ROW_OUTPUT, ROW_STATISTICS, TRAITS
from .result import won

Rows = torch.Tensor  # float64 [rows]
BRANCHES = ("chosen", "rejected")


def row_dtype(device: torch.device) -> torch.dtype:
    """float64, but for devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


# ---- Moments


def _compute_dtype(operands: Operands) -> torch.dtype:
    """The widest dtype of the batch, at least float32."""
    double = any(isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 for tensor in operands)
    return torch.float64 if double else torch.float32


def _element_weights(operands: Operands, branch: str, dtype: torch.dtype) -> Optional[torch.Tensor]:
    weights = operands.weights_of(branch)
    return None if weights is None else weights.to(dtype)


def _elements(operands: Operands, weights: Optional[torch.Tensor], like: torch.Tensor) -> Rows:
    """D, or the sum of the element weights, of every row."""
    if weights is None:
        return torch.full((operands.rows,), float(operands.size), dtype=like.dtype, device=like.device)
    return weights.reshape(weights.shape[0], -1).sum(1, dtype=like.dtype).expand(operands.rows)


def _errors(branch: Dict[str, Any], dtype: torch.dtype) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    """d = u_theta - u and h = u_theta - u_ref."""
    policy = branch["policy"].detach().to(dtype)
    d = policy - branch["target"].detach().to(dtype)
    return d, None if branch["reference"] is None else policy - branch["reference"].detach().to(dtype)


def moments(operands: Operands, numbers: RowNumbers, options: Tuple[float, ...], threads: int, cross: bool) -> torch.Tensor:
    """Row outputs with the moments and the elements of the tensors given; all other fields are 0."""
    dtype, device, rows = _compute_dtype(operands), operands.device, operands.rows
    out = torch.zeros((len(ROW_OUTPUT), rows), dtype=row_dtype(device), device=device)

    def mean(values: torch.Tensor, weights: Optional[torch.Tensor], elements: Rows) -> Rows:
        if weights is not None:  # an element of weight 0 counts for nothing, whatever its value
            values = torch.where(weights != 0, values * weights, torch.zeros_like(values))
        total = values.reshape(rows, operands.size).sum(1, dtype=out.dtype)
        return torch.where(elements > 0, total / elements, torch.zeros_like(total))

    errors = []
    for name, branch in zip(BRANCHES, branches_of(operands)):
        d, h = _errors(branch, dtype)
        errors.append(d)
        weights = _element_weights(operands, name, dtype)
        over = weights, _elements(operands, weights, out)
        m = mean(d * d, *over)
        if h is None:
            delta = m - _column(numbers, f"reference_error_{name}", rows, out)
            q = torch.full_like(m, float("nan"))
        else:
            # Not a difference of two means: m and r agree to many digits early in training.
            delta, q = mean(h * (2 * d - h), *over), mean(h * h, *over)
        for field, value in (("error", m), ("delta", delta), ("reference_error", m - delta), ("drift", q), ("element_sum", over[1])):
            out[ROW_OUTPUT[f"{field}_{name}"]] = value
    # Asked for with one weighting only, which is then that of the last branch too.
    wants_cross = cross or decode(options).safeguard >= 0
    out[ROW_OUTPUT["cross"]] = mean(errors[0] * errors[1], *over) if wants_cross else float("nan")
    if operands.element_weights is not None:
        out = _refuse_weights(_unusable_weights(operands), out)
    finite = torch.ones((rows,), dtype=torch.bool, device=device)
    for name, branch in zip(BRANCHES, branches_of(operands)):
        for field in ("error", "delta", *(() if branch["reference"] is None else ("drift",))):
            finite = finite & torch.isfinite(out[ROW_OUTPUT[f"{field}_{name}"]])
    out[ROW_OUTPUT["non_finite"]] = (~finite).to(out.dtype)
    if is_throwing(options):
        throw_non_finite(out, operands, numbers)
    return out


def _unusable_weights(operands: Operands) -> torch.Tensor:
    """Per row, whether its element weights are negative or not finite."""
    bad = torch.zeros((operands.rows,), dtype=torch.bool, device=operands.device)
    for given in (operands.element_weights, operands.element_weights_rejected):
        if given is not None:
            weights = given.reshape(given.shape[0], -1)
            bad = bad | ~torch.isfinite(weights).all(1) | (weights < 0).any(1)
    return bad


def _refuse_weights(bad: torch.Tensor, row_outputs: torch.Tensor) -> torch.Tensor:
    """An error where the element weights of a row are bad; NaN in it where nobody looks."""
    if bad.device.type == "cpu" and bool(bad.any()):
        throw_element_weights(int(bad.nonzero()[0]))
    return torch.where(bad, torch.full_like(row_outputs, float("nan")), row_outputs)


def _column(numbers: RowNumbers, name: str, rows: int, like: torch.Tensor) -> Rows:
    field = ROW_INPUT[name]
    if field not in numbers.lists:
        return torch.full((rows,), numbers.values[field], dtype=like.dtype, device=like.device)
    values = numbers.lists[field]
    if not isinstance(values, torch.Tensor):
        values = torch.tensor(list(values), dtype=torch.float64, device="cpu")
    return values.to(device=like.device, dtype=like.dtype)


# ---- From moments and numbers per row to psi and lambda


class _Branch(NamedTuple):
    m: Rows
    delta: Rows
    q: Rows
    psi: Rows
    log_weight: Rows  # e lambda
    lambda_: Rows
    has_psi: Rows
    clipped: Rows  # whether the log-ratio clip changed it


def _omega(numbers: RowNumbers, branch: str, rows: int, like: torch.Tensor) -> Rows:
    given = _column(numbers, f"omega_{branch}", rows, like)
    if numbers.table is None or ROW_INPUT[f"omega_{branch}"] in numbers.lists or numbers.values[ROW_INPUT[f"omega_{branch}"]] >= 0:
        return given
    timestep = _column(numbers, f"timestep_{branch}", rows, like)
    count = numbers.table.count
    valid = (timestep >= 0) & (timestep < count) & (timestep == timestep.floor())
    found = numbers.table.on(like.device).to(like.dtype)[torch.where(valid, timestep, torch.zeros_like(timestep)).to(torch.int64)]
    return torch.where(valid, found, torch.full_like(found, float("nan")))


def _log(value: float, like: torch.Tensor) -> torch.Tensor:
    return torch.log(torch.tensor(value, dtype=like.dtype, device=like.device))


def _branch(options: Encoded, numbers: RowNumbers, name: str, m: Rows, delta: Rows, q: Rows, size: Rows) -> _Branch:
    rows = m.shape[0]
    omega = _omega(numbers, name, rows, m)
    reduce = size if options.log_ratio_reduction == "sum" else torch.ones_like(size)
    scale = options.beta * _column(numbers, f"beta_scale_{name}", rows, m)
    infinite = torch.isinf(omega)
    if options.timestep_weighting == "elbo":
        has_psi, ratio_scale = ~infinite, torch.where(infinite, torch.zeros_like(omega), omega) * reduce
    else:
        has_psi, ratio_scale = torch.ones_like(infinite), torch.full_like(omega, 0.5)
    log_ratio = -ratio_scale * delta
    low, high = _log(options.log_ratio_clip_low, m), _log(options.log_ratio_clip_high, m)
    inside = (log_ratio > low) & (log_ratio < high) | torch.isnan(log_ratio)
    clipped = ((log_ratio < low) | (log_ratio > high)) & has_psi
    psi = scale * torch.where(inside, log_ratio, torch.where(log_ratio <= low, low, high))  # derivative 0 outside and on an edge
    psi = torch.where(has_psi, psi, torch.full_like(psi, float("nan")))

    kappa = options.weight_sharpness
    moment = {"policy/data": m, "policy/reference": delta, "reference/data": (m - delta).detach()}[options.weight_ratio]
    finite_omega = torch.where(infinite, torch.zeros_like(omega), omega)
    lambda_ = kappa * reduce * _column(numbers, f"offset_{name}", rows, m) - kappa * finite_omega * reduce * moment
    noise = _column(numbers, f"noise_{name}", rows, m)
    ratio = m / size
    root = torch.where(ratio > 0, torch.where(ratio > 0, ratio, torch.ones_like(ratio)).sqrt(), torch.zeros_like(ratio))
    sampled = kappa * torch.sqrt(2 * finite_omega) * noise * reduce * root
    lambda_ = lambda_ + torch.where(noise != 0, sampled, torch.zeros_like(sampled))
    lambda_ = torch.where(infinite, torch.full_like(lambda_, float("-inf")), lambda_)
    exponent = options.weight_exponent
    log_weight = torch.zeros_like(lambda_) if exponent == 0 else exponent * lambda_
    return _Branch(m, delta, q, psi, log_weight, lambda_, has_psi, clipped)


# ---- Objectives: (loss, logit, number of clipped weights) of every row


class _Terms(NamedTuple):
    loss: Rows
    logit: Rows
    clipped: Rows


def _link(options: Encoded, z: Rows) -> Rows:
    if options.link == "hinge":
        return torch.where(z < 1, 1 - z, torch.where(z >= 1, torch.zeros_like(z), z))
    if options.link == "ipo":
        return ((z - 0.5) / options.beta) ** 2
    return (1 - options.label_smoothing) * softplus(-z) + options.label_smoothing * softplus(z)


def _clip(options: Encoded, log_weight: Rows) -> Tuple[Rows, Rows]:
    """(the clipped weight, a constant unless weight_gradient; whether the clip changed it)."""
    low, high = _log(options.clip_low, log_weight), _log(options.clip_high, log_weight)
    changed = (log_weight < low) | (log_weight > high)
    bounded = torch.minimum(torch.maximum(log_weight.detach(), low), high)
    inside = (log_weight > low) & (log_weight < high)
    weight = torch.exp(torch.where(inside, log_weight, bounded))  # derivative 0 exactly on an edge
    return weight if options.weight_gradient else weight.detach(), changed.to(log_weight.dtype)


def _pair_weight(options: Encoded, c: _Branch, r: _Branch) -> Tuple[Rows, Rows]:
    a, b = c.log_weight, r.log_weight
    if options.pair_weight == "product":
        return _clip(options, a + b)
    if options.pair_weight == "min":
        return _clip(options, torch.where(a <= b, a, b))
    if options.pair_weight == "max":
        return _clip(options, torch.where(a >= b, a, b))
    return _clip(options, (a + b) / 2)


def _diffusion_dpo(options: Encoded, c: _Branch, r: _Branch, margin: Rows) -> _Terms:
    z = c.psi - r.psi - margin
    return _Terms(_link(options, z), z, torch.zeros_like(z))


def _dpo_cm(options: Encoded, c: _Branch, r: _Branch, margin: Rows) -> _Terms:
    weight, clipped = _pair_weight(options, c, r)
    z = c.psi - r.psi - margin
    return _Terms(weight * _link(options, z), z, clipped)


def _sdpo(options: Encoded, c: _Branch, r: _Branch, margin: Rows) -> _Terms:
    if options.pair_weight != "automatic":
        weight, clipped = _pair_weight(options, c, r)
        z = weight * (c.psi - r.psi) - margin
    else:
        (w_c, clipped_c), (w_r, clipped_r) = _clip(options, c.log_weight), _clip(options, r.log_weight)
        z, clipped = w_c * c.psi - w_r * r.psi - margin, clipped_c + clipped_r
    return _Terms(_link(options, z), z, clipped)


def _dspo(options: Encoded, c: _Branch, r: _Branch, margin: Rows) -> _Terms:
    z = c.psi - r.psi
    s = options.beta * torch.sigmoid(-z)
    return _Terms(c.m - s * (c.delta + c.q) + s * s * c.q, z, torch.zeros_like(z))


def _dmpo(options: Encoded, c: _Branch, r: _Branch, margin: Rows) -> _Terms:
    z = c.psi - r.psi
    alpha = torch.tensor(options.dmpo_alpha, dtype=z.dtype, device=z.device)
    loss = torch.sigmoid(z) * (-softplus(-z) - torch.log1p(-alpha)) + torch.sigmoid(-z) * (-softplus(z) - torch.log(alpha))
    return _Terms(loss, z, torch.zeros_like(z))


def _odds(x: Rows) -> Rows:
    """x / (e^x - 1), by a series near 0."""
    near = x < 0.02
    far = torch.where(near, torch.ones_like(x), x)
    return torch.where(near, 1 - x / 2 + x**2 / 12 - x**4 / 720 + x**6 / 30240, far / torch.expm1(far))


def _mapo(options: Encoded, c: _Branch, r: _Branch, margin: Rows) -> _Terms:
    z = options.mapo_steps * (_odds(options.mapo_scale * c.m) - _odds(options.mapo_scale * r.m))
    return _Terms(c.m + options.beta * softplus(-z), z, torch.zeros_like(z))


def _linear_dpo(options: Encoded, c: _Branch, r: _Branch, margin: Rows) -> _Terms:
    z = c.psi - r.psi
    factor = (0.5 - 0.4 * z).detach().clamp(options.linear_floor, 1 - options.linear_floor)
    return _Terms(factor * (c.m - r.m), z, torch.zeros_like(z))


OBJECTIVES: Dict[str, Callable[[Encoded, _Branch, _Branch, Rows], _Terms]] = {
    "diffusion-dpo": _diffusion_dpo,
    "dpo-cm": _dpo_cm,
    "sdpo": _sdpo,
    "dspo": _dspo,
    "dmpo": _dmpo,
    "mapo": _mapo,
    "linear-dpo": _linear_dpo,
}

_CHECKED = (
    *("offset_chosen", "offset_rejected", "noise_chosen", "noise_rejected", "timestep_chosen", "timestep_rejected", "margin", "keep"),
    *("beta_scale_chosen", "beta_scale_rejected", "mask_threshold", "row_weight"),
)
_NOT_NEGATIVE = ("beta_scale_chosen", "beta_scale_rejected", "mask_threshold", "row_weight")


def objective(
    out: torch.Tensor, numbers: RowNumbers, options: Tuple[float, ...], denominator: float, has_drift: Tuple[bool, bool] = (False, False)
) -> torch.Tensor:
    """Fills the row outputs that follow from the moments in `out`, and gives the metrics. has_drift: a drift has to be a number."""
    o, rows = decode(options), out.shape[1]
    traits = TRAITS[o.objective]
    names = [f"{field}_{branch}" for branch in BRANCHES for field in ("error", "delta", "drift")]
    with torch.enable_grad(), _differentiating():
        leaves = [out[ROW_OUTPUT[name]].detach().clone().requires_grad_() for name in names]
        c, r = (
            _branch(o, numbers, name, *moments_of_branch, out[ROW_OUTPUT[f"element_sum_{name}"]].detach().clone())
            for name, moments_of_branch in zip(BRANCHES, (leaves[:3], leaves[3:]))
        )
        terms = OBJECTIVES[o.objective](o, c, r, _column(numbers, "margin", rows, out))
        partials = _partials(terms.loss, leaves)
    kept, unreadable = _kept(o, numbers, c, r, traits["weights"] > 0)
    finite = torch.ones_like(kept)
    for i, name in enumerate(names):
        if has_drift[i // 3] or not name.startswith("drift"):
            finite = finite & torch.isfinite(leaves[i].detach())
    kept = kept | (~finite & c.has_psi & r.has_psi & _wanted(o, numbers, c.m))
    zero = torch.zeros_like(terms.loss)
    loss = torch.where(kept, terms.loss.detach(), zero)
    a_c, a_r = (torch.where(kept, partials[i] + partials[i + 1], zero) for i in (0, 3))
    b_c, b_r = (torch.where(kept, partials[i], zero) for i in (2, 5))
    if o.safeguard >= 0:
        factor = _safeguard(o, leaves[0].detach(), out[ROW_OUTPUT["cross"]])
        a_r, b_r = a_r * factor, b_r * factor
    if o.sft_weight != 0:
        here = torch.ones_like(kept) if o.sft_scope == "all" else ~kept
        loss = torch.where(here, loss + o.sft_weight * leaves[0].detach(), loss)
        a_c = torch.where(here, a_c + o.sft_weight, a_c)
    if o.kl_weight != 0:
        here = torch.ones_like(kept) if o.kl_scope == "all" else ~kept
        loss = torch.where(here, loss + o.kl_weight * (leaves[2] + leaves[5]).detach(), loss)
        b_c, b_r = (torch.where(here, b + o.kl_weight, b) for b in (b_c, b_r))
    weight = torch.where(unreadable, torch.full_like(zero, float("nan")), _column(numbers, "row_weight", rows, out))
    denominator = denominator or float(rows)
    loss = loss * weight
    coefficients = [value * weight / denominator for value in (a_c, a_r, b_c, b_r)]
    read = kept
    for value in (loss, *coefficients):
        finite, read = finite & torch.isfinite(value), read | (value != 0)
    mask, clipped, ratio_clipped = kept.to(out.dtype), terms.clipped.detach(), (c.clipped.to(out.dtype) + r.clipped.to(out.dtype))
    if o.non_finite == "propagate":
        # A removed row without an anchor stays at 0: nothing of it is read.
        loss, *first = (torch.where(finite | ~read, value, torch.full_like(value, float("nan"))) for value in (loss, *coefficients[:2]))
        coefficients[:2] = first
    else:
        loss, mask, clipped, ratio_clipped, *coefficients = (torch.where(finite, value, zero) for value in (loss, mask, clipped, ratio_clipped, *coefficients))
    results = {
        "loss": loss,
        "logit": terms.logit,
        "mask": mask,
        "clipped": clipped,
        "log_ratio_clipped": ratio_clipped,
        "non_finite": (~finite).to(out.dtype),
    }
    results.update(zip(("a_chosen", "a_rejected", "b_chosen", "b_rejected"), coefficients))
    for name, branch in zip(BRANCHES, (c, r)):
        results.update({f"reward_{name}": branch.psi, f"log_weight_{name}": branch.lambda_, f"weight_{name}": branch.log_weight.exp()})
    for name, value in results.items():
        out[ROW_OUTPUT[name]] = value.detach()
    if is_throwing(options):
        throw_non_finite(out)
    return _metrics(o, out, denominator)


def _differentiating() -> Any:
    """Automatic differentiation within a custom operator, where PyTorch has switched it off."""
    if not hasattr(torch._C, "_ForceDispatchKeyGuard"):
        return contextlib.nullcontext()
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        excluded = excluded.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


def _partials(loss: Rows, leaves: List[Rows]) -> List[Rows]:
    """d loss / d moment of every row; a row that is not kept may have NaN here."""
    found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if value is None else value for leaf, value in zip(leaves, found)]


def _wanted(o: Encoded, numbers: RowNumbers, like: torch.Tensor) -> torch.Tensor:
    """Kept by the caller and within the window."""
    wanted = _column(numbers, "keep", like.shape[0], like) != 0
    for branch in BRANCHES:
        timestep = _column(numbers, f"timestep_{branch}", like.shape[0], like)
        wanted = wanted & (timestep >= o.window_low) & (timestep <= o.window_high)
    return wanted


def _kept(o: Encoded, numbers: RowNumbers, c: _Branch, r: _Branch, weighted: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """(kept rows, rows with a number that may not be)."""
    rows = c.m.shape[0]
    kept = _wanted(o, numbers, c.m) & c.has_psi & r.has_psi
    if weighted:
        floor = torch.log(_column(numbers, "mask_threshold", rows, c.m))
        kept = kept & (c.lambda_ >= floor) & (r.lambda_ >= floor)
    unreadable = torch.zeros_like(kept)
    for name in _CHECKED:
        value = _column(numbers, name, rows, c.m)
        unreadable = unreadable | ~torch.isfinite(value) | ((value < 0) if name in _NOT_NEGATIVE else torch.zeros_like(kept))
    if weighted or o.timestep_weighting == "elbo":
        for branch in BRANCHES:
            unreadable = unreadable | ~(_omega(numbers, branch, rows, c.m) >= 0)
    return kept, unreadable


def _safeguard(o: Encoded, m: Rows, x: Rows) -> Rows:
    if o.safeguard_scope == "batch":
        finite = torch.isfinite(m) & torch.isfinite(x)
        m, x = (torch.where(finite, value, torch.zeros_like(value)).sum() for value in (m, x))
    return torch.where(x > 0, ((1 - o.safeguard) * m / x).clamp(max=1), torch.ones_like(x))


def _metrics(o: Encoded, out: torch.Tensor, denominator: float) -> torch.Tensor:
    at = lambda name: out[ROW_OUTPUT[name]]
    rows = out.shape[1]
    margin = at("reward_chosen") - at("reward_rejected")
    columns = {name: at(name) for name in ROW_STATISTICS}
    columns.update(implicit_accuracy=won(margin), reward_margin=margin, mask_fraction=1 - at("mask"))
    metrics = torch.empty((len(METRIC),), dtype=out.dtype, device=out.device)
    for name, values in columns.items():
        finite = torch.isfinite(values)
        metrics[METRIC[name]] = torch.where(finite, values, torch.zeros_like(values)).sum() / finite.sum()
    weights = TRAITS[o.objective]["weights"]
    weights = 1 if weights == 2 and o.pair_weight != "automatic" else weights
    ratios = 2 if TRAITS[o.objective]["reference"] else 0
    metrics[METRIC["clip_fraction"]] = at("clipped").sum() / max(1, weights * rows)
    metrics[METRIC["log_ratio_clip_fraction"]] = at("log_ratio_clipped").sum() / max(1, ratios * rows)
    metrics[METRIC["non_finite_rows"]] = at("non_finite").sum()
    metrics[METRIC["batch_loss"]] = at("loss").sum() / denominator
    return metrics


# ---- The whole call, and the gradient


def evaluate(
    operands: Operands,
    numbers: RowNumbers,
    options: Tuple[float, ...],
    denominator: float,
    threads: int,
    gradient: Tuple[Optional[torch.Tensor], Optional[torch.Tensor]],
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Row outputs [fields, rows] and metrics [fields]; the gradient of the batch loss into `gradient`, where tensors for it are given."""
    row_outputs = moments(operands, numbers, options, threads, False)
    if operands.element_weights is not None:  # of whole rows, whose sums have to be positive
        sums = row_outputs[[ROW_OUTPUT["element_sum_chosen"], ROW_OUTPUT["element_sum_rejected"]]]
        row_outputs = _refuse_weights(~(sums > 0).all(0), row_outputs)
    references = tuple(branch["reference"] is not None for branch in branches_of(operands))
    metrics = objective(row_outputs, numbers, options, denominator, references)  # type: ignore[arg-type]
    if gradient[0] is not None or gradient[1] is not None:
        gradients(operands, row_outputs, threads, gradient)
    return row_outputs, metrics


def gradients(operands: Operands, row_outputs: torch.Tensor, threads: int, gradient: Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]) -> None:
    """The gradient of these elements, by the coefficients and the elements per row in `row_outputs`."""
    dtype = _compute_dtype(operands)
    outs: Tuple[Any, Any] = gradient
    if operands.layout != "branches":
        outs = (half(gradient[0], operands.layout, 0), half(gradient[0], operands.layout, 1))
    per_row = (-1,) + (1,) * (operands.policy_chosen.dim() - 1)
    for name, branch, out in zip(BRANCHES, branches_of(operands), outs):
        if out is None:
            continue
        d, h = _errors(branch, dtype)
        weights = _element_weights(operands, name, dtype)
        size = row_outputs[ROW_OUTPUT[f"element_sum_{name}"]]
        size = torch.where(size > 0, size, _elements(operands, weights, size))
        a, b = (row_outputs[ROW_OUTPUT[f"{letter}_{name}"]] for letter in "ab")
        scaled = [(2 * value / size).to(dtype).reshape(per_row) for value in (a, b)]
        value = scaled[0] * d
        if h is not None:
            value = torch.where(scaled[1] != 0, value + scaled[1] * h, value)
        if weights is not None:
            value = torch.where(weights != 0, value * weights, torch.zeros_like(value))
        removed = ((a == 0) & (b == 0)).reshape(per_row)
        out.copy_(torch.where(removed, torch.zeros_like(value), value))
