"""Preference fine-tuning in FastVideo, which has no DPO: a training method beside its own, for Wan and the other models it trains.

    method: {_target_: fastvideo_method.PreferenceMethod, objective: sdpo, beta: 500.0, flow_shift: 3.0}
    models: student (trainable) and reference (frozen)

A batch is {"chosen": …, "rejected": …}, each as the student's prepare_batch takes it. Written against fastvideo/train/methods/base.py at commit 00e61a5
and fine_tuning/finetune.py at 08ed16e (2026): prepare_batch draws noise and timesteps from the method's generator; predictions are velocities
noise - latents. Tested against that interface with stand-ins; FastVideo itself was not run.
"""

import torch
from fastvideo.train.methods.fine_tuning.finetune import FineTuneMethod

from sdpo import NoiseSchedule, PreferenceLoss


class PreferenceMethod(FineTuneMethod):
    def __init__(self, *, cfg, role_models):
        super().__init__(cfg=cfg, role_models=role_models)
        if "reference" not in role_models:
            raise ValueError("PreferenceMethod requires role 'reference', the frozen model that the student starts from")
        self.reference = role_models["reference"]
        given = {name: value for name, value in self.method_config.items() if name not in ("_target_", "attn_kind", "flow_shift", "inference_steps")}
        schedule = NoiseSchedule.flow(
            shift=float(self.method_config.get("flow_shift", 3.0)), inference_steps=int(self.method_config.get("inference_steps", 50))
        )
        self.loss_fn = PreferenceLoss(schedule=schedule, **given)

    def single_train_step(self, batch, iteration, *, current_vsa_sparsity=0.0):
        del iteration
        prepared = {}
        # The same noise and timestep for both samples of a pair: the second starts from the same state of the generator.
        state = None if self.cuda_generator is None else self.cuda_generator.get_state()
        for branch in ("chosen", "rejected"):
            if state is not None:
                self.cuda_generator.set_state(state)
            prepared[branch] = self.student.prepare_batch(batch[branch], current_vsa_sparsity=current_vsa_sparsity, latents_source="data")
        chosen = prepared["chosen"]
        if not torch.equal(chosen.timesteps, prepared["rejected"].timesteps):
            raise RuntimeError("expected both samples of a pair to have one timestep; prepare_batch draws it from another generator")
        branches = {branch: self._predict(ready) for branch, ready in prepared.items()}
        out = self.loss_fn(**branches, timesteps=chosen.timesteps)
        metadata = chosen.attn_metadata_vsa if self._attn_kind == "vsa" else chosen.attn_metadata
        metrics = {name: value for name, value in out.metrics.items() if name in ("implicit_accuracy", "reward_margin", "mask_fraction")}
        return {"total_loss": out.loss, "preference_loss": out.loss}, {"_fv_backward": (chosen.timesteps, metadata)}, metrics

    def _predict(self, ready):
        noisy = ready.noisy_model_input.permute(0, 2, 1, 3, 4)
        target = ready.noise.permute(0, 2, 1, 3, 4) - ready.latents
        call = lambda model: model.predict_noise(noisy, ready.timesteps, ready, conditional=True, attn_kind=self._attn_kind)
        with torch.no_grad():
            reference = call(self.reference)
        return call(self.student), reference, target
