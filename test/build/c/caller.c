/* What a call may take and depend on of its caller: 64 KiB of the stack, measured on a thread of 128 KiB, and nothing
 * of the floating-point environment, which is the same afterwards; and its signals stay its own. Prints one TAP line
 * per check. */
#define _GNU_SOURCE
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "../../../native/c/sdpo.h"

static int checks = 0, failures = 0;

static void ok(int condition, const char* what) {
  ++checks;
  if (!condition) ++failures;
  printf("%s %d - %s%s%s\n", condition ? "ok" : "not ok", checks, what, condition ? "" : ": ",
         condition ? "" : sdpo_last_error());
}

enum { ROWS = 2, SIZE = 70000, INPUTS = 64, OUTPUTS = 64, METRICS = 64, PARTS = 6 };

static double tensors[PARTS][ROWS * SIZE], gradients[2][ROWS * SIZE], weights[SIZE];
static double outputs[OUTPUTS * ROWS], metrics[METRICS];
static sdpo_column columns[INPUTS];
static sdpo_options options;
static sdpo_problem problem;
static sdpo_location host = {SDPO_HOST, 0};
static int status;

static int dtype(const char* name) { return sdpo_index("dtypes", name); }
static sdpo_column* column(const char* name) { return &columns[sdpo_index("rowInputs", name)]; }

/* SDPO on noise of a scale; `names` are the dtypes of policy, reference and target. */
static void make(const char* const* names, double scale, int weighted, int threads) {
  sdpo_tensor* const views[PARTS] = {&problem.chosen.policy,   &problem.chosen.reference,   &problem.chosen.target,
                                     &problem.rejected.policy, &problem.rejected.reference, &problem.rejected.target};
  sdpo_output* const results[2] = {&problem.chosen.gradient, &problem.rejected.gradient};
  double factors[ROWS], zeros[ROWS];
  sdpo_options_init(&options, sizeof options);
  sdpo_problem_init(&problem, sizeof problem);
  sdpo_columns_init(columns, sdpo_count("rowInputs"));
  options.objective = sdpo_index("objectives", "sdpo");
  options.beta = 4;
  options.safeguard = 0.5;
  options.non_finite = sdpo_index("nonFinite", "skip");
  column("omegaChosen")->value = column("omegaRejected")->value = 0.01;
  for (int row = 0; row < ROWS; ++row) {
    factors[row] = scale;
    zeros[row] = 0;
  }
  for (int i = 0; i < PARTS; ++i) {
    views[i]->data = tensors[i];
    views[i]->row_stride = SIZE;
    views[i]->dtype = dtype(names[i % 3]);
    sdpo_noise((uint64_t)i, 0, ROWS * SIZE, tensors[i], views[i]->dtype, host, NULL, threads);
    const sdpo_output out = {tensors[i], SIZE, views[i]->dtype, 0};
    sdpo_combine(ROWS, SIZE, factors, views[i], zeros, views[i], &out, host, NULL, threads);
  }
  for (int i = 0; i < 2; ++i) {
    results[i]->data = gradients[i];
    results[i]->row_stride = SIZE;
    results[i]->dtype = dtype(names[0]);
  }
  if (weighted) {
    for (int i = 0; i < SIZE; ++i) weights[i] = i % 3;
    problem.element_weights.data = weights;
    problem.element_weights.dtype = dtype("float64");
  }
  problem.rows = ROWS;
  problem.size = SIZE;
  problem.columns = columns;
  problem.column_count = sdpo_count("rowInputs");
  problem.row_outputs = outputs;
  problem.metrics = metrics;
  problem.options = &options;
  problem.threads = threads;
}

static void call(void) {
  memset(outputs, 0, sizeof outputs);
  memset(gradients, 0, sizeof gradients);
  status = sdpo_evaluate(&problem, NULL);
}

static const char* const plain[] = {"float32", "float32", "float32"};
static const char* const halves[] = {"float16", "bfloat16", "float16"};
static const char* const mixed[] = {"float32", "float16", "float64"};

/* ---- The stack */

enum { STACK = 128 << 10, LIMIT = 64 << 10, PAINT = 0x5a };

static void everything(void) {
  int good = 1;
  make(plain, 1, 0, 1);
  call();
  good = good && status == SDPO_OK;
  make(halves, 1, 0, 1);
  call();
  good = good && status == SDPO_OK;
  make(mixed, 1, 1, 3);
  call();
  good = good && status == SDPO_OK;
  tensors[0][5] = NAN; /* looked for and named */
  options.non_finite = sdpo_index("nonFinite", "throw");
  call();
  good = good && status == SDPO_NON_FINITE;
  status = good ? SDPO_OK : SDPO_INTERNAL;
}

static void* on_thread(void* stack) {
  const volatile unsigned char* bottom = stack;
  unsigned char here;
  everything();
  size_t untouched = 0;
  while (bottom[untouched] == PAINT) ++untouched;
  return (void*)(uintptr_t)(&here - (bottom + untouched));
}

static void check_stack(void) {
  void* const stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pthread_attr_t attributes;
  pthread_t thread;
  void* depth = NULL;
  if (stack == MAP_FAILED) exit(2);
  memset(stack, PAINT, STACK);
  pthread_attr_init(&attributes);
  if (pthread_attr_setstack(&attributes, stack, STACK) != 0) exit(3);
  if (pthread_create(&thread, &attributes, on_thread, stack) != 0) exit(4);
  pthread_join(thread, &depth);
  printf("# %zu bytes of the stack\n", (size_t)(uintptr_t)depth);
  ok(status == SDPO_OK, "calls on a thread of 128 KiB");
  ok((uintptr_t)depth <= LIMIT, "take at most 64 KiB of its stack");
}

/* ---- The floating-point environment */

static uint64_t digest(void) {
  uint64_t hash = 1469598103934665603u;
  const void* const parts[] = {outputs, gradients, tensors};
  const size_t sizes[] = {sizeof outputs, sizeof gradients, sizeof tensors};
  for (int part = 0; part < 3; ++part) {
    const unsigned char* const bytes = parts[part];
    for (size_t i = 0; i < sizes[part]; i += 1) hash = (hash ^ bytes[i]) * 1099511628211u;
  }
  return hash;
}

static uint64_t run(const char* const* names, double scale, int threads) {
  memset(tensors, 0, sizeof tensors);
  make(names, scale, 0, threads);
  call();
  return digest();
}

typedef struct {
  const char* const* names;
  double scale; /* of numbers whose squares, or who themselves, are subnormal */
} kind;

static const kind kinds[] = {{plain, 1}, {plain, 1e-20}, {plain, 1e-39}, {halves, 2e-6}, {mixed, 1e-20}};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static void check_environment(const char* what, const uint64_t* expected) {
  int same = 1, kept = 1;
  for (int k = 0; k < KINDS; ++k) {
    for (int threads = 1; threads <= 3; threads += 2) {
      const int rounding = fegetround();
      feclearexcept(FE_ALL_EXCEPT);
#if defined(__x86_64__)
      const unsigned control = _mm_getcsr();
#endif
      same = run(kinds[k].names, kinds[k].scale, threads) == expected[k] && same;
#if defined(__x86_64__)
      kept = _mm_getcsr() == control && kept;
#endif
      kept = fegetround() == rounding && fetestexcept(FE_ALL_EXCEPT) == 0 && kept;
    }
  }
  char text[200];
  snprintf(text, sizeof text, "%s: the same bits", what);
  ok(same, text);
  snprintf(text, sizeof text, "%s: kept, without flags", what);
  ok(kept, text);
}

/* A program that waits for a signal blocks it in its own threads; helpers that were made before must not take it. */
static void check_signals(void) {
  sigset_t set, before;
  const struct timespec patience = {60, 0};
  run(plain, 1, 4);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &set, &before);
  kill(getpid(), SIGUSR1);
  ok(sigtimedwait(&set, NULL, &patience) == SIGUSR1, "a signal is its caller's");
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int main(void) {
  check_stack();
  check_signals();

  uint64_t expected[KINDS];
  for (int k = 0; k < KINDS; ++k) expected[k] = run(kinds[k].names, kinds[k].scale, 1);
  check_environment("the default environment", expected);
  fesetround(FE_UPWARD);
  check_environment("rounding upwards", expected);
  fesetround(FE_TOWARDZERO);
  check_environment("rounding towards zero", expected);
  fesetround(FE_TONEAREST);
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);
  check_environment("subnormals flushed to zero", expected);
  _mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
#if defined(__GLIBC__)
  if (feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW) != -1) {
    check_environment("trapped exceptions", expected);
    column("maskThreshold")->value = 0; /* whose logarithm is infinite */
    ((float*)tensors[0])[5] = INFINITY;
    call();
    ok(status == SDPO_OK, "trapped exceptions: a row that is not finite");
    fedisableexcept(FE_ALL_EXCEPT);
  }
#endif
  printf("1..%d\n", checks);
  return failures == 0 ? 0 : 1;
}
