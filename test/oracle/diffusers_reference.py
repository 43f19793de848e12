"""Writes test/schedule/diffusers.json: what diffusers' own schedulers say of noise levels, ladders and transitions, computed in float64.

    pip install diffusers scipy && python test/oracle/diffusers_reference.py configs.json

The schedulers are imported with float64 wherever their source says float32. configs.json names published configs, one object each; further
cases are made below for every class and field. Per case the file has

    config, options       what the schedule is made of: options are those of NoiseSchedule.fromDiffusers
    levels                [timestep, a, s] for some timesteps (variance preserving; those of a flow are t / T by definition)
    ladder                s / a (variance preserving) or sigma (flow) of the n levels that set_timesteps(n) makes, and of the one behind them
    omega                 [timestep, omega] of transitions. Where the class's step() draws noise, omega is measured: the squared change of its result
                          per unit of the prediction over twice the variance that its noise adds. Otherwise it is that of the Gaussian posterior
                          between the two levels, by Bayes' rule. null stands for infinity.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import logging
import math
import os
import sys
import types
import warnings

import numpy as np
import torch


class Float64Loader(importlib.machinery.SourceFileLoader):
    def get_data(self, path):
        data = super().get_data(path)
        return data.replace(b"float32", b"float64") if path.endswith(".py") else data

    def path_stats(self, path):
        raise OSError  # no cached bytecode of the unchanged source


class Float64Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if not name.startswith("diffusers.schedulers.scheduling_"):
            return None
        spec = super().find_spec(name, path, target)
        spec.loader = Float64Loader(spec.name, spec.origin)
        return spec


sys.meta_path.insert(0, Float64Finder)
if importlib.util.find_spec("torchsde") is None:  # which is only needed to draw noise
    sys.modules["torchsde"] = types.ModuleType("torchsde")
    sys.modules["torchsde"].__spec__ = importlib.machinery.ModuleSpec("torchsde", None)
torch.set_default_dtype(torch.float64)
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

MODULES = {
    "DDPM": "ddpm", "DDPMParallel": "ddpm_parallel", "DDIM": "ddim", "DDIMParallel": "ddim_parallel", "PNDM": "pndm", "LCM": "lcm", "TCD": "tcd",
    "CogVideoXDDIM": "ddim_cogvideox", "CogVideoXDPM": "dpm_cogvideox", "EulerDiscrete": "euler_discrete",
    "EulerAncestralDiscrete": "euler_ancestral_discrete", "HeunDiscrete": "heun_discrete", "KDPM2Discrete": "k_dpm_2_discrete",
    "KDPM2AncestralDiscrete": "k_dpm_2_ancestral_discrete", "DPMSolverSDE": "dpmsolver_sde", "LMSDiscrete": "lms_discrete",
    "DPMSolverMultistep": "dpmsolver_multistep", "DPMSolverSinglestep": "dpmsolver_singlestep", "DEISMultistep": "deis_multistep",
    "SASolver": "sasolver", "UniPCMultistep": "unipc_multistep", "UnCLIP": "unclip", "FlowMatchEulerDiscrete": "flow_match_euler_discrete",
    "FlowMatchHeunDiscrete": "flow_match_heun_discrete", "FlowMatchLCM": "flow_match_lcm", "FlowMapEulerDiscrete": "flow_map_euler_discrete",
    "MiniMaxH3": "minimax_h3",
}  # fmt: skip
# Each of these visits a level twice, once for each evaluation of a second-order step.
TWICE = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "FlowMatchHeunDiscrete")
# Without a list of noise levels: timesteps index the table.
BY_TIMESTEP = ("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "PNDM", "LCM", "TCD", "CogVideoXDDIM", "CogVideoXDPM", "UnCLIP")


def make(config):
    """The scheduler of a config, and its module."""
    name = config["_class_name"].removeprefix("Flax").removesuffix("Scheduler")
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[name]}")
    return getattr(module, f"{name}Scheduler").from_config(config), module, name


def set_steps(scheduler, name, options):
    """Runs set_timesteps as the pipeline does that the options describe."""
    n, ladder = options["inferenceSteps"], options.get("ladder")
    arguments = {"mu": options["mu"]} if "mu" in options else {}
    flow_match = name in ("FlowMatchEulerDiscrete", "FlowMatchLCM")
    if ladder == "linear-quadratic":
        from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

        scheduler.set_timesteps(sigmas=linear_quadratic_schedule(n, 0.025), **arguments)
    elif ladder == "uniform" or (flow_match and ladder is None):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / n, n), **arguments)
    else:
        scheduler.set_timesteps(n, **arguments)


def ladder_of(scheduler, name):
    """Timesteps, levels (s/a or sigma), and whether they are those of a flow."""
    flow = "FlowM" in name or name == "MiniMaxH3" or bool(scheduler.config.get("use_flow_sigmas"))
    if name in BY_TIMESTEP:
        times = scheduler.timesteps.tolist()
        if name == "PNDM":  # the second one is taken twice
            times = times[:1] + times[2:]
        powers = scheduler.alphas_cumprod[torch.tensor(times)]
        final = 1.0
        if name in ("DDIM", "DDIMParallel", "PNDM", "CogVideoXDDIM", "CogVideoXDPM"):
            final = float(scheduler.final_alpha_cumprod)
        elif name == "TCD":
            final = float(scheduler.alphas_cumprod[0])
        ratios = ((1 - powers) / powers).sqrt().tolist()
        return times, ratios + [math.sqrt((1 - final) / final)], False
    times, sigmas = scheduler.timesteps.tolist(), scheduler.sigmas.tolist()
    if name in TWICE:
        times, sigmas = times[:1] + times[1::2], sigmas[:1] + sigmas[1:-1:2] + sigmas[-1:]
        if name.startswith("KDPM2"):  # whose second evaluation is at a level between
            times, sigmas = scheduler.timesteps.tolist()[::2], scheduler.sigmas.tolist()[::2]
    sigmas = sigmas[: len(times) + 1]  # a log-linear ladder has one more, which no step comes to
    if scheduler.config.get("invert_sigmas"):
        sigmas = [1 - sigma for sigma in sigmas]
    if flow and name != "MiniMaxH3":
        # Solvers print their timesteps cut to integers.
        steps = scheduler.config.num_train_timesteps
        times = [(1 - s if scheduler.config.get("invert_sigmas") else s) * steps for s in sigmas[:-1]]
    return times, sigmas, flow


def measured(scheduler, module, name, index, timestep, options):
    """omega of a step that draws noise: one call for the mean, one for the derivative, one for the noise."""
    results = []
    for prediction, noise in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        module.randn_tensor = lambda shape, noise=noise, **_: torch.full(shape, noise)
        set_steps(scheduler, name, options)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(index)
        if hasattr(scheduler, "is_scale_input_called"):
            scheduler.is_scale_input_called = True
        t = scheduler.timesteps[index]
        extra = {"eta": 1.0} if name in ("DDIM", "DDIMParallel") else {}
        if name == "UnCLIP":
            following = scheduler.timesteps[index + 1].item() if index + 1 < len(scheduler.timesteps) else -1
            extra = {"prev_timestep": following}
        x = torch.full((1, 1, 1, 1), 0.3)
        results.append(scheduler.step(torch.full_like(x, prediction), t, x, return_dict=False, **extra)[0].item())
    mean, moved, noised = results
    # What comes to clean data has no noise, or where the class bounds the variance from below, a root of 1e-20.
    return None if abs(noised - mean) < 1e-9 else (moved - mean) ** 2 / (2 * (noised - mean) ** 2)


def bayes(prediction, here, after):
    """omega of the posterior between two levels (a, s), from x_p | x_0 and x_t | x_p."""
    (a, s), (b, r) = here, after
    if r == 0 or (prediction == "epsilon" and a == 0):
        return None
    step = s * s - (a / b) ** 2 * r * r
    if step <= 0:
        return 0.0
    variance = 1 / (1 / (r * r) + (a / b) ** 2 / step)
    derivative = {"epsilon": s / a if a else math.inf, "sample": 1.0}.get(prediction, s)
    return (variance * b / (r * r) * derivative) ** 2 / (2 * variance)


def pair(power):
    return math.sqrt(float(power)), math.sqrt(1 - float(power))


def level(value, flow):
    return (1 - value, value) if flow else (1 / math.hypot(1, value), value / math.hypot(1, value))


def case(label, config, options):
    config = {k: v for k, v in config.items() if v is not None}  # as null is read
    for name in options.get("ignore", ()):
        config.pop(name, None)
    if config.get("clip_sample", None) is None and config["_class_name"] not in ("FlowMatchEulerDiscreteScheduler",):
        config["clip_sample"] = False  # which is what an absent one is taken for
    scheduler, module, name = make(config)
    set_steps(scheduler, name, options)
    times, values, flow = ladder_of(scheduler, name)
    out = {"name": label, "options": options, "ladder": [None if math.isinf(v) else v for v in values]}
    prediction = options.get("predictionType") or scheduler.config.get("prediction_type") or ("flow_prediction" if flow else "epsilon")
    if not flow:
        powers = scheduler.alphas_cumprod
        last = len(powers) - 1
        some = sorted({0, 1, last // 50, last // 4, last // 2, last - 1, last})
        out["levels"] = [[t, math.sqrt(powers[t].item()), math.sqrt(1 - powers[t].item())] for t in some]
    algorithm = scheduler.config.get("algorithm_type")
    stochastic = (
        name in ("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "EulerAncestralDiscrete", "LCM", "FlowMatchLCM", "UnCLIP")
        or scheduler.config.get("stochastic_sampling")
        or (algorithm == "sde-dpmsolver++" and scheduler.config.solver_order == 1)
    )
    omegas = []
    for i, t in enumerate(times):
        if not flow and t != math.floor(t):
            continue  # between two timesteps, where no model is trained
        if stochastic:
            omegas.append([t, measured(scheduler, module, name, i, t, options)])
        elif name in ("PNDM", "CogVideoXDDIM", "CogVideoXDPM"):
            # Their steps go by T // n, wherever the next timestep is.
            after = t - scheduler.config.num_train_timesteps // options["inferenceSteps"]
            power = powers[after] if after >= 0 else scheduler.final_alpha_cumprod
            omegas.append([t, bayes(prediction, pair(powers[t]), pair(power))])
        elif (flow or abs(values[i] ** 2 * powers[int(t)] / (1 - powers[int(t)]) - 1) < 1e-9):
            omegas.append([t, bayes(prediction, level(values[i], flow), level(values[i + 1], flow))])
    if omegas:
        out["omega"] = omegas
    return out


def short(value):
    """Ten digits, for tests that look at six."""
    if isinstance(value, list):
        return [short(each) for each in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def cases(published):
    """Label, config and options of every case."""
    sizes = {"mu": 1.15}
    for label, config in published.items():
        if config["_class_name"].removeprefix("Flax").removesuffix("Scheduler") not in MODULES or config.get("timestep_type") == "continuous":
            continue
        options = {"inferenceSteps": 28, **(sizes if config.get("use_dynamic_shifting") else {})}
        if config.get("clip_sample"):
            options["ignore"] = ["clip_sample"]
        yield label, config, options

    def of(name, n=28, options=None, **fields):
        shown = " ".join([name, *(f"{k}={v}" for k, v in {**fields, **(options or {})}.items()), f"n={n}"])
        return shown, {"_class_name": f"{name}Scheduler", **fields}, {"inferenceSteps": n, **(options or {})}

    conversions = [{f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta")]
    spacings = [{"timestep_spacing": "leading", "steps_offset": 1}, {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}]
    for name in ("DDPM", "DDIM", "PNDM", "CogVideoXDDIM", "LCM", "TCD", "UnCLIP"):
        extra = {"skip_prk_steps": True} if name == "PNDM" else {}
        yield of(name, **extra)
        yield of(name, 4, **extra)
    for name in ("DDPM", "DDIM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "SASolver"):
        for spacing in spacings:
            yield of(name, 16, **spacing)
            yield of(name, 30, **spacing)
    yield of("DDPM", 48, timestep_spacing="trailing")  # where NumPy's steps do not round as their multiples do
    for name in ("DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "CogVideoXDDIM"):
        yield of(name, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    for name in ("EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "DPMSolverSDE", "DPMSolverMultistep",
                 "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "SASolver"):  # fmt: skip
        yield of(name)
        for conversion in conversions:
            yield of(name, 10, **conversion)
    yield of("EulerDiscrete", 10, use_karras_sigmas=True, sigma_min=0.05, sigma_max=80.0)
    bounds = {"sigma_min": 0.05, "sigma_max": 10.0}
    for name in ("DPMSolverMultistep", "DEISMultistep", "LMSDiscrete", "DPMSolverSDE", "HeunDiscrete", "UniPCMultistep"):
        for conversion in conversions[:2]:
            yield of(name, 6, **conversion, **bounds)
    yield of("DPMSolverMultistep", 6, use_lu_lambdas=True, **bounds)
    yield of("FlowMatchEulerDiscrete", 6, use_karras_sigmas=True, sigma_min=0.05, sigma_max=0.9)
    yield of("EulerDiscrete", 10, interpolation_type="log_linear")
    yield of("EulerDiscrete", 10, final_sigmas_type="sigma_min")
    yield of("EulerDiscrete", 10, final_sigmas_type="sigma_min", use_karras_sigmas=True, timestep_spacing="trailing")
    yield of("DPMSolverMultistep", 10, use_lu_lambdas=True)
    yield of("DPMSolverMultistep", 10, final_sigmas_type="sigma_min")
    yield of("DPMSolverMultistep", 10, lambda_min_clipped=-5.1, beta_schedule="squaredcos_cap_v2")
    yield of("DPMSolverMultistep", 9, algorithm_type="sde-dpmsolver++", solver_order=1)
    yield of("DPMSolverSinglestep", 9, lambda_min_clipped=-5.1, beta_schedule="squaredcos_cap_v2")
    yield of("UniPCMultistep", 10, use_karras_sigmas=True, sigma_min=0.05, sigma_max=80.0, final_sigmas_type="sigma_min")
    yield of("DDPM", 10, variance_type="fixed_large")
    yield of("DDPM", 10, beta_schedule="sigmoid")
    yield of("DDPM", 10, beta_schedule="laplace")
    yield of("HeunDiscrete", 28, beta_schedule="exp", prediction_type="sample")
    yield of("DDPM", 10, num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    yield of("CogVideoXDDIM", 25, snr_shift_scale=1.0, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")

    solver = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "SASolver", "UniPCMultistep"):
        yield of(name, 8, **solver)
    for name in ("DPMSolverMultistep", "UniPCMultistep"):
        yield of(name, 8, final_sigmas_type="sigma_min", **solver)
        yield of(name, 8, {"mu": 0.9}, use_dynamic_shifting=True, **solver)
    yield of("UniPCMultistep", 8, shift_terminal=0.1, **solver)
    yield of("UniPCMultistep", 8, {"ladder": "uniform"}, **solver)
    cosmos = {"use_karras_sigmas": True, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "sigma_max": 200.0, "sigma_min": 0.01}
    yield of("UniPCMultistep", 8, **cosmos)
    yield of("UniPCMultistep", 8, final_sigmas_type="sigma_min", **cosmos)

    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024}
    for name in ("FlowMatchEulerDiscrete", "FlowMatchLCM"):
        for options in ({"ladder": "scheduler"}, {"ladder": "uniform"}):
            yield of(name, 4, options, shift=3.0)
            yield of(name, 8, {**options, "mu": 1.4}, shift_terminal=0.1, **dynamic)
            yield of(name, 8, {**options, "mu": 1.4}, time_shift_type="linear", **dynamic)
            if name != "FlowMatchLCM":  # whose step is not one of an inverted flow
                yield of(name, 8, options, invert_sigmas=True, shift=2.0)
            for conversion in conversions:
                yield of(name, 8, options, shift=3.0, **conversion)
    yield of("FlowMatchEulerDiscrete", 12, {"ladder": "linear-quadratic"}, invert_sigmas=True)
    yield of("FlowMatchEulerDiscrete", 4, {"ladder": "scheduler"}, shift=3.0, stochastic_sampling=True)
    yield of("FlowMatchHeunDiscrete", 8, shift=3.0)
    yield of("FlowMapEulerDiscrete", 8, shift=3.0)
    yield of("MiniMaxH3", 9)


def resolutions():
    """mu as the pipelines compute it."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    lines = [((256, 4096, 0.5, 1.15), 4096), ((256, 4096, 0.5, 1.15), 1024), ((256, 8192, 0.5, 0.9), 6032), ((1024, 4096, 0.95, 2.05), 12000)]
    yield from ({"line": list(line), "tokens": tokens, "mu": calculate_shift(tokens, *line)} for line, tokens in lines)
    for tokens, steps in ((1024, 28), (4096, 50), (4301, 28), (16384, 10)):
        yield {"empirical": True, "tokens": tokens, "steps": steps, "mu": compute_empirical_mu(tokens, steps)}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        published = json.load(file)
    import diffusers

    configs = {}
    entries = []
    for label, config, options in cases(published):
        configs[label] = {k: v for k, v in config.items() if k != "_diffusers_version"}
        entry = case(label, config, options)
        entries.append({**entry, **{key: short(entry[key]) for key in ("levels", "ladder", "omega") if key in entry}})
    target = os.path.join(os.path.dirname(__file__), "..", "schedule", "diffusers.json")
    with open(target, "w", encoding="utf-8") as file:
        file.write("{\n" + f'"diffusers": "{diffusers.__version__}",\n')
        file.write('"published": ' + json.dumps(published, separators=(",", ":")) + ",\n")
        file.write('"resolutions": ' + json.dumps(list(resolutions()), separators=(",", ":")) + ",\n")
        rows = (json.dumps({**entry, "config": configs[entry["name"]]}, separators=(",", ":")) for entry in entries)
        file.write('"cases": [\n' + ",\n".join(rows) + "\n]\n}\n")
    print(len(entries), "cases")


main()
