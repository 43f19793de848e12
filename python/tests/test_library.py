"""The library below: how it is found, that it is the one of these sources, threads, fork, interpreter exit."""

import ctypes
import os
import subprocess
import tempfile
import threading
import unittest
import unittest.mock

import torch

import sdpo
from sdpo import _failures, _library, _numbers, _operands, _tables, _threads

from . import support

# A batch large enough for helper threads, evaluated forward and backward.
USE = """
import torch, sdpo
def use():
    p, r, t = (sdpo.noise(i, 0, torch.empty(4, 300000)) for i in range(3))
    p.requires_grad_()
    loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=1.0)
    out = loss_fn(chosen=(p, r, t), rejected=(r, p.detach(), t), transition={"omega": [0.0] * 4})
    out.loss.backward()
    return out.loss.item(), p.grad.double().sum().item()
"""


class Loading(unittest.TestCase):
    def test_structs_are_those_of_the_header(self):
        # The library writes a struct of the size it knows; a field too many or too few here would shift what lies behind it.
        library = _library.library()
        options, problem, columns = _library.Options(), _library.Problem(), _library.Columns()
        library.sdpo_options_init(options, ctypes.sizeof(options))
        library.sdpo_problem_init(problem, ctypes.sizeof(problem))
        library.sdpo_columns_init(columns, len(columns))
        self.assertEqual((options.beta, options.safeguard, options.dmpo_alpha, options.mapo_scale, options.mapo_steps), (1, -1, 0.01, 0.5, 1000))
        self.assertEqual((problem.gradient_scale, problem.denominator, problem.threads, problem.stream), (1, 0, 0, None))
        self.assertEqual(str([column.value for column in columns]), str(list(_tables.ROW_DEFAULTS)))
        for struct, init in ((_library.Options, "sdpo_options_init"), (_library.Problem, "sdpo_problem_init")):
            larger = (ctypes.c_ubyte * (ctypes.sizeof(struct) + 8))(*([7] * (ctypes.sizeof(struct) + 8)))
            getattr(library, init)(ctypes.cast(larger, ctypes.POINTER(struct)), len(larger))
            self.assertEqual(list(larger[-8:]), [0] * 8)

    def test_version_is_that_of_the_package(self):
        import json

        with open(os.path.join(support.ROOT, "package.json"), encoding="utf-8") as file:
            self.assertEqual(sdpo.__version__, json.load(file)["version"])

    def test_missing_library(self):
        result = support.run_python(USE + "use()", env={"SDPO_LIBRARY": "/nonexistent/libsdpo.so"})
        self.assertEqual(result.returncode, 1)
        for text in ("/nonexistent/libsdpo.so (SDPO_LIBRARY): no such file", "pip install .", "SDPO_LIBRARY"):
            self.assertIn(text, result.stderr)

    def test_another_library(self):
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(b"not a library")
            file.flush()
            result = support.run_python(USE + "use()", env={"SDPO_LIBRARY": file.name})
            self.assertIn("received none that could be loaded", result.stderr)

    def test_found_through_the_environment_alone(self):
        built = _library.library()._name
        with tempfile.TemporaryDirectory() as folder:
            # A copy of the package outside of the checkout, without a library of its own.
            subprocess.run(["cp", "-r", os.path.join(support.PYTHON_ROOT, "sdpo"), folder], check=True)
            copied = os.path.join(folder, "sdpo", _library.NAME)
            if os.path.exists(copied):
                os.remove(copied)
            code = f"import sys; sys.path.insert(0, {folder!r}); import sdpo; sdpo.PreferenceLoss('mapo', beta=1, backend='native'); print(sdpo.__file__)"
            found = support.run_python(code, env={"SDPO_LIBRARY": built, "PYTHONPATH": ""})
            self.assertIn(folder, found.stdout, found.stderr)
            missing = support.run_python(code, env={"SDPO_LIBRARY": "", "PYTHONPATH": ""})
            self.assertIn("SDPO_LIBRARY: not set", missing.stderr)

    def test_device_memory_without_a_backend_is_refused(self):
        if _library.library().has_cuda:
            self.skipTest("this library has a CUDA backend")
        options, problem, numbers = _library.Options(), _library.Problem(), (ctypes.c_double * 64)()
        _library.library().sdpo_options_init(options, ctypes.sizeof(options))
        _library.library().sdpo_problem_init(problem, ctypes.sizeof(problem))
        problem.options, problem.row_outputs, problem.metrics = ctypes.addressof(options), ctypes.addressof(numbers), ctypes.addressof(numbers)
        problem.tensors_kind = problem.scalars_kind = 1
        with self.assertRaisesRegex(sdpo.SdpoError, "built without CUDA") as caught:
            _library.run("sdpo_objective", problem)
        self.assertEqual(caught.exception.code, "ERR_SDPO_DEVICE")

    def test_the_diagnosis_for_device_results(self):
        # The same finding that the CPU backend makes by itself, here from the results alone.
        chosen, rejected, timesteps = support.batch()
        rejected[1][3, 1, 0, 0] = float("inf")
        tensors = (chosen[0], rejected[0], chosen[2], rejected[2], chosen[1], rejected[1], None, None)
        operands = _operands.Operands(*(None if tensor is None else tensor.detach() for tensor in tensors), "branches", None)
        out = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 1.0, non_finite="propagate")(chosen=chosen, rejected=rejected, timesteps=timesteps)
        row_outputs = torch.zeros(len(_tables.ROW_OUTPUT), 4, dtype=torch.float64)
        row_outputs[_tables.ROW_OUTPUT["non_finite"]] = out.rows["loss"].isnan().double()
        with self.assertRaises(sdpo.NonFiniteError) as caught:
            _failures.throw_non_finite(row_outputs, operands, _numbers.RowNumbers())
        error = caught.exception
        self.assertEqual((error.row, error.branch, error.tensor, error.element), (3, "rejected", "reference", 64))


class Threads(unittest.TestCase):
    def test_number_of_threads(self):
        cores = _library.library().sdpo_default_threads()
        unset = dict.fromkeys(("SDPO_NUM_THREADS", *_threads._LOCAL_WORLD_SIZE), "")
        count = lambda **env: unittest.mock.patch.dict(os.environ, {**unset, **env})
        for environment, of_torch, expected in (
            ({}, cores + 1, cores),
            ({}, 1, 1),
            ({"LOCAL_WORLD_SIZE": "2"}, cores, max(1, cores // 2)),
            ({"LOCAL_WORLD_SIZE": "1000"}, cores, 1),
            ({"OMPI_COMM_WORLD_LOCAL_SIZE": str(cores)}, cores, 1),
            ({"SLURM_NTASKS_PER_NODE": "2(x3)"}, cores, cores),
            ({"LOCAL_WORLD_SIZE": "2", "SDPO_NUM_THREADS": str(cores)}, 1, cores),
        ):
            with count(**environment), unittest.mock.patch("torch.get_num_threads", lambda: of_torch):
                self.assertEqual(sdpo.default_threads(), expected, (environment, of_torch))
        fresh = support.run_python("import sdpo; print(sdpo.default_threads())", env={"SDPO_NUM_THREADS": "5", "LOCAL_WORLD_SIZE": "2"})
        self.assertEqual(fresh.stdout.strip(), "5", fresh.stderr)

    def test_calls_take_no_more_threads_than_pytorch(self):
        seen = []
        run = _library.run
        with unittest.mock.patch("sdpo._library.run", lambda function, problem: (seen.append(problem.threads), run(function, problem))):
            for of_torch in (1, 2):
                with unittest.mock.patch("torch.get_num_threads", lambda: of_torch):
                    tensors = [sdpo.noise(i, 0, torch.empty(2, 8)) for i in range(6)]
                    loss = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 1.0)
                    loss(chosen=tensors[0:3], rejected=tensors[3:6], timesteps=torch.zeros(2))
        self.assertEqual(seen[0], 1)
        self.assertLessEqual(seen[-1], 2)

    def test_a_garbled_number_of_threads_is_an_error(self):
        program = """
import sdpo
try:
    sdpo.default_threads()
except ValueError as error:
    print(error.code, error)
"""
        for text in ("one", "0", "2 "):
            found = support.run_python(program, env={"SDPO_NUM_THREADS": text})
            expected = "Expected the environment variable SDPO_NUM_THREADS to be an integer from 1 to 4096, or not to be set"
            self.assertEqual(found.stdout.strip(), f'ERR_SDPO_INVALID_ARG_VALUE {expected}, received "{text}"', found.stderr)

    def test_the_same_bits_for_any_number(self):
        tensors = [sdpo.noise(i, 0, torch.empty(3, 100001)) for i in range(6)]
        results = []
        for threads in (1, 2, 7):
            policy = tensors[0].clone().requires_grad_()
            out = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 1.0, threads=threads)(
                chosen=(policy, *tensors[1:3]), rejected=tensors[3:], timesteps=[10, 20, 30]
            )
            out.loss.backward()
            results.append((out.rows["logit"], policy.grad))
        for logit, gradient in results[1:]:
            self.assertTrue(torch.equal(logit, results[0][0]) and torch.equal(gradient, results[0][1]))

    def test_calls_from_several_threads(self):
        namespace = {}
        exec(USE, namespace)
        expected, results = namespace["use"](), []
        workers = [threading.Thread(target=lambda: results.append(namespace["use"]())) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(results, [expected] * 4)


class Processes(unittest.TestCase):
    @unittest.skipIf(torch.cuda.is_available(), "where there is a GPU, PyTorch refuses the backward of a forked child")
    def test_fork(self):
        # As a DataLoader worker: a child of a process that has used the library, whose helper threads do not exist in the child.
        code = (
            USE
            + """
import multiprocessing
expected = use()
# One thread for PyTorch itself in the children, as its DataLoader does it: OpenMP does not survive a fork.
with multiprocessing.get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
    assert pool.starmap(use, [()] * 4) == [expected] * 4
assert use() == expected
class Data(torch.utils.data.Dataset):
    schedule = sdpo.NoiseSchedule.preset("sd15")
    def __len__(self): return 4
    def __getitem__(self, i): return torch.tensor(use()[0]) + self.schedule.transition(100 * i + 1).omega
list(torch.utils.data.DataLoader(Data(), num_workers=2))
print("alive")
"""
        )
        result = support.run_python(code)
        self.assertEqual((result.returncode, result.stdout.strip()), (0, "alive"), result.stderr)

    def test_spawn_pickles_losses_and_schedules(self):
        import pickle

        loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0, clip_range=0.2)
        again = pickle.loads(pickle.dumps(loss_fn))
        self.assertEqual(again.options.clip_range, (0.8, 1.2))
        chosen, rejected, timesteps = support.batch()
        losses = [fn(chosen=chosen, rejected=rejected, timesteps=timesteps).loss.item() for fn in (loss_fn, again)]
        self.assertEqual(*losses)

    def test_exit(self):
        # With helper threads asleep; from an exit handler; while another thread is inside the library.
        busy = """
import threading
from sdpo import _library
def forever():
    library, buffer = _library.library(), torch.empty(1 << 22)
    while True:
        library.sdpo_noise(0, 0, 1 << 22, buffer.data_ptr(), 1, _library.Location(0, 0), None, 2)
threading.Thread(target=forever, daemon=True).start()
"""
        result = support.run_python(USE + "use()\nimport atexit\natexit.register(use)" + busy)
        self.assertEqual((result.returncode, result.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
