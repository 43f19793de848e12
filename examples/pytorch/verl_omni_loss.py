"""The losses of this package in VeRL-Omni, under names of its registry: import this file where the trainer's workers start.

    actor.diffusion_loss.loss_mode=sdpo_preference          # beside its own "dpo", on the same batches

Written against verl_omni/trainer/diffusion/diffusion_algos.py at commit 073521e (2026): `register_diffusion_loss` takes a class whose instance is
called with config, model_output and data, and gives a DiffusionLossResult. Pairs are neighbours in the batch: chosen, rejected, chosen, …
Tested against that interface with stand-ins; the trainer itself was not run.
"""

from verl_omni.trainer.diffusion.diffusion_algos import DiffusionLossFn, DiffusionLossResult, register_diffusion_loss

from sdpo import NoiseSchedule, PreferenceLoss


class PreferenceLossFn(DiffusionLossFn):
    """Subclass it, or set `options` and `schedule`, for another objective."""

    required_model_output_keys = ("noise", "latent", "noise_pred")
    required_data_keys = ("ref_noise_pred", "sample_level_rewards")

    options = {"objective": "diffusion-dpo"}
    schedule: "NoiseSchedule | None" = None

    def __init__(self):
        self._made = {}

    def _loss_fn(self, beta):
        if beta not in self._made:
            self._made[beta] = PreferenceLoss(schedule=self.schedule, beta=beta, **self.options)
        return self._made[beta]

    @classmethod
    def compute_loss(cls, **arguments):
        raise NotImplementedError("the loss is computed in one call, from the whole batch")

    def __call__(self, *, config, model_output, data):
        scores = data["sample_level_rewards"]
        scores = scores.squeeze(-1) if scores.dim() > 1 else scores
        if bool((scores[0::2] < scores[1::2]).any()):
            raise ValueError("expected the first of each pair to have the higher reward")
        target = model_output["noise"].float() - model_output["latent"].float()
        # Objectives that read omega need the timesteps of the rows, which an adapter puts beside its predictions.
        out = self._loss_fn(config.diffusion_loss.dpo_beta)(
            policy=model_output["noise_pred"],
            reference=data["ref_noise_pred"],
            target=target,
            layout="interleaved",
            timesteps=model_output.get("timesteps"),
        )
        numbers = out.log_entries()
        metrics = {f"actor/{name}": value for name, value in numbers.items() if value == value}
        return DiffusionLossResult(loss=out.loss, metrics={**metrics, "actor/dpo_loss": numbers["loss"]})


@register_diffusion_loss("sdpo_preference")
class DiffusionDpoLossFn(PreferenceLossFn):
    """Diffusion-DPO with this package's accuracy and statistics: the loss of verl-omni's own "dpo"."""
