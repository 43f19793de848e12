"""The loss block of a Diffusion-DPO training step, twice: in plain PyTorch as training scripts compute it, and with sdpo.

Both take a stacked batch (halves: all chosen, then all rejected) of predictions of the policy and of the frozen reference, and the
target; both return the loss and what a training log shows.
"""

import torch
import torch.nn.functional as F

from sdpo import PreferenceLoss


def plain_step(policy, reference, target, beta):
    """Diffusion-DPO (arXiv 2311.12908, equation 14) with the usual conventions: float32, mean over all dimensions of a sample, beta / 2."""
    policy_errors = (policy.float() - target.float()).pow(2).mean(dim=list(range(1, policy.dim())))
    policy_chosen, policy_rejected = policy_errors.chunk(2)
    with torch.no_grad():
        reference_errors = (reference.float() - target.float()).pow(2).mean(dim=list(range(1, policy.dim())))
        reference_chosen, reference_rejected = reference_errors.chunk(2)
    difference = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
    inside = -0.5 * beta * difference
    loss = -F.logsigmoid(inside).mean()
    accuracy = ((inside > 0).float() + 0.5 * (inside == 0).float()).mean()
    return loss, {"implicit_accuracy": accuracy.detach(), "policy_error": policy_errors.mean().detach()}


def make_step(objective, beta, schedule, **options):
    """The same step with sdpo. Another objective is another value of the first argument."""
    loss_fn = PreferenceLoss(objective=objective, beta=beta, schedule=schedule, **options)

    def step(policy, reference, target, timesteps, denominator=None):
        return loss_fn(policy=policy, reference=reference, target=target, layout="halves", timesteps=timesteps, denominator=denominator)

    return step
