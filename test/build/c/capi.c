/* Tests the C interface from C: prints one TAP line per check, then the numbers of a batch in hexadecimal for the
 * caller to compare. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../../../native/c/sdpo.h"

static int checks = 0, failures = 0;

static void ok(int condition, const char* what) {
  ++checks;
  if (!condition) ++failures;
  printf("%s %d - %s%s%s\n", condition ? "ok" : "not ok", checks, what, condition ? "" : ": ",
         condition ? "" : sdpo_last_error());
}

static int says(const char* text) { return strstr(sdpo_last_error(), text) != NULL; }

enum { ROWS = 3, SIZE = 40, INPUTS = 64, OUTPUTS = 64, METRICS = 64 };

typedef struct {
  float tensors[6][ROWS * SIZE]; /* policy, reference, target of chosen; of rejected */
  float gradients[2][ROWS * SIZE];
  double inputs[INPUTS * ROWS];
  double outputs[OUTPUTS * ROWS];
  double metrics[METRICS];
  sdpo_options options;
  sdpo_problem problem;
} batch;

static sdpo_location host(void) {
  sdpo_location location = {SDPO_HOST, 0};
  return location;
}

static void set_input(batch* b, const char* name, double value) {
  int row;
  for (row = 0; row < ROWS; ++row) b->inputs[sdpo_index("rowInputs", name) * ROWS + row] = value;
}

static double output(const batch* b, const char* name, int row) {
  return b->outputs[sdpo_index("rowOutputs", name) * ROWS + row];
}

static void set_tensor(sdpo_tensor* tensor, const float* data) {
  tensor->data = data;
  tensor->row_stride = SIZE;
  tensor->dtype = sdpo_index("dtypes", "float32");
}

static void set_gradient(sdpo_output* out, float* data) {
  out->data = data;
  out->row_stride = SIZE;
  out->dtype = sdpo_index("dtypes", "float32");
}

/* Noise as tensors, and the row scalars of Diffusion-DPO with beta = 4. */
static void fill(batch* b) {
  int i;
  memset(b, 0, sizeof *b);
  for (i = 0; i < 6; ++i) {
    ok(sdpo_noise((uint64_t)i, 0, ROWS * SIZE, b->tensors[i], sdpo_index("dtypes", "float32"), host(), NULL, 1) ==
           SDPO_OK,
       "noise");
  }
  set_input(b, "psiScaleChosen", 2);
  set_input(b, "psiScaleRejected", 2);
  set_input(b, "logMaskFloor", -INFINITY);
  set_input(b, "logClipLow", log(0.9));
  set_input(b, "logClipHigh", log(1.1));
  set_input(b, "rowWeight", 1);
  ok(sdpo_options_init(&b->options, sizeof b->options) == SDPO_OK, "options_init");
  ok(sdpo_problem_init(&b->problem, sizeof b->problem) == SDPO_OK, "problem_init");
  b->options.objective = sdpo_index("objectives", "diffusion-dpo");
  b->options.beta = 4;
  b->problem.rows = ROWS;
  b->problem.size = SIZE;
  set_tensor(&b->problem.chosen.policy, b->tensors[0]);
  set_tensor(&b->problem.chosen.reference, b->tensors[1]);
  set_tensor(&b->problem.chosen.target, b->tensors[2]);
  set_tensor(&b->problem.rejected.policy, b->tensors[3]);
  set_tensor(&b->problem.rejected.reference, b->tensors[4]);
  set_tensor(&b->problem.rejected.target, b->tensors[5]);
  set_gradient(&b->problem.chosen.gradient, b->gradients[0]);
  set_gradient(&b->problem.rejected.gradient, b->gradients[1]);
  b->problem.row_inputs = b->inputs;
  b->problem.row_outputs = b->outputs;
  b->problem.metrics = b->metrics;
  b->problem.options = &b->options;
}

/* The loss once more, as plainly as C can say it. */
static double expected_loss(const batch* b) {
  double sum = 0;
  int row, i;
  for (row = 0; row < ROWS; ++row) {
    double delta[2] = {0, 0};
    int branch;
    for (branch = 0; branch < 2; ++branch) {
      for (i = 0; i < SIZE; ++i) {
        const double target = b->tensors[3 * branch + 2][row * SIZE + i];
        const double d = b->tensors[3 * branch][row * SIZE + i] - target,
                     r = b->tensors[3 * branch + 1][row * SIZE + i] - target;
        delta[branch] += (d * d - r * r) / SIZE;
      }
    }
    sum += log1p(exp(2 * (delta[0] - delta[1])));
  }
  return sum / ROWS;
}

static void names(void) {
  static const char* const lists[] = {"dtypes",   "objectives",     "links",     "pairWeights", "weightRatios",
                                      "scopes",   "nonFinite",      "rowInputs", "rowOutputs",  "metrics",
                                      "statuses", "failureTensors", "locations"};
  size_t i;
  for (i = 0; i < sizeof lists / sizeof lists[0]; ++i) {
    int n = 0;
    while (sdpo_name(lists[i], n) != NULL) {
      if (sdpo_index(lists[i], sdpo_name(lists[i], n)) != n) break;
      ++n;
    }
    ok(n > 0 && sdpo_name(lists[i], n) == NULL, lists[i]);
  }
  ok(sdpo_index("objectives", "unknown") == -1 && sdpo_index("unknown", "sdpo") == -1,
     "an unknown name has no position");
  ok(sdpo_index(NULL, "sdpo") == -1 && sdpo_index("objectives", NULL) == -1 && sdpo_name(NULL, 0) == NULL,
     "NULL is an unknown name");
  ok(sdpo_name("links", -1) == NULL && strcmp(sdpo_name("statuses", SDPO_NON_FINITE), "non_finite") == 0,
     "statuses by number");
  ok(strcmp(sdpo_name("locations", SDPO_CUDA), "cuda") == 0, "locations by number");
  ok(sdpo_abi_version() == SDPO_ABI_VERSION && strlen(sdpo_version()) >= 5, "versions");
  ok(sdpo_default_threads() >= 1 && strlen(sdpo_instruction_set()) > 0, "the CPU backend");
}

static void passes(batch* b) {
  batch two = *b;
  sdpo_failure failure;
  int row;
  fill(b);
  ok(sdpo_evaluate(&b->problem, &failure) == SDPO_OK && failure.row == -1 && strlen(sdpo_last_error()) == 0,
     "evaluate");
  ok(fabs(b->metrics[0] - expected_loss(b)) < 1e-6, "the loss is that of the formula");

  fill(&two);
  ok(sdpo_moments(&two.problem, NULL) == SDPO_OK, "moments");
  ok(output(&two, "deltaChosen", 1) == output(b, "deltaChosen", 1) && output(&two, "loss", 1) == 0, "moments alone");
  ok(sdpo_objective(&two.problem, NULL) == SDPO_OK && two.metrics[0] == b->metrics[0], "objective");
  ok(two.gradients[0][0] == 0, "objective writes no gradient");
  ok(sdpo_gradients(&two.problem, NULL) == SDPO_OK, "gradients");
  ok(memcmp(two.gradients, b->gradients, sizeof two.gradients) == 0, "two passes give the bits of the fused call");

  /* Coefficients scaled by the caller between the passes scale the gradient. */
  for (row = 0; row < ROWS; ++row) two.outputs[sdpo_index("rowOutputs", "aChosen") * ROWS + row] *= 2;
  ok(sdpo_gradients(&two.problem, NULL) == SDPO_OK && two.gradients[0][7] == 2 * b->gradients[0][7],
     "scaled coefficients");
  ok(two.gradients[1][7] == b->gradients[1][7], "the other branch as before");

  two.problem.denominator = 2 * ROWS;
  ok(sdpo_objective(&two.problem, NULL) == SDPO_OK && two.metrics[0] == b->metrics[0] / 2, "denominator");
  two.problem.rows = 0;
  ok(sdpo_evaluate(&two.problem, NULL) == SDPO_OK && two.metrics[0] == 0, "no rows");
}

static void failing_calls(batch* b) {
  sdpo_failure failure;
  sdpo_problem problem;
  sdpo_options options;
  float weights[SIZE];

  fill(b);
  b->tensors[2][SIZE + 4] = NAN;
  ok(sdpo_evaluate(&b->problem, &failure) == SDPO_NON_FINITE && says("row 1 of chosen.target"), "a NaN is reported");
  ok(failure.row == 1 && failure.branch == 0 && failure.element == 4, "with its place");
  ok(strcmp(sdpo_name("failureTensors", failure.tensor), "target") == 0, "and its tensor");
  b->options.non_finite = sdpo_index("nonFinite", "skip");
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK && strlen(sdpo_last_error()) == 0, "or its row is left out");

  fill(b);
  memset(weights, 0, sizeof weights);
  set_tensor(&b->problem.element_weights, weights);
  b->problem.element_weights.row_stride = 0;
  ok(sdpo_evaluate(&b->problem, &failure) == SDPO_ELEMENT_WEIGHTS && failure.row == 0, "element weights of sum 0");

  fill(b);
  problem = b->problem;
  ok(sdpo_evaluate(NULL, NULL) == SDPO_INVALID_ARGUMENT && says("NULL"), "no problem");
  problem.struct_size = 0;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("struct_size"),
     "a problem that was not initialised");
  problem = b->problem;
  problem.rows = -1;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("problem.rows"), "negative rows");
  problem = b->problem;
  problem.size = INT64_C(1) << 56;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("memory"), "more than memory");
  problem = b->problem;
  problem.chosen.target.data = NULL;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("chosen.target"), "a missing tensor");
  problem = b->problem;
  problem.rejected.policy.dtype = 99;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("rejected.policy"), "an unknown dtype");
  problem = b->problem;
  problem.chosen.gradient.row_stride = 1;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("overlap"), "rows of a gradient that overlap");
  problem = b->problem;
  problem.metrics = NULL;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("metrics"), "no metrics");
  problem = b->problem;
  problem.options = NULL;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("options"), "no options");
  options = b->options;
  options.link = -1;
  problem.options = &options;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("options.link"), "an unknown link");
  problem = b->problem;
  problem.threads = -1;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("threads"), "negative threads");
  problem = b->problem;
  problem.scalars.kind = 7;
  ok(sdpo_evaluate(&problem, NULL) == SDPO_INVALID_ARGUMENT && says("scalars"), "an unknown location");
  ok(sdpo_options_init(NULL, sizeof options) == SDPO_INVALID_ARGUMENT, "nothing to initialise");
  if (!sdpo_has_cuda()) {
    problem = b->problem;
    problem.tensors.kind = problem.scalars.kind = SDPO_CUDA;
    ok(sdpo_evaluate(&problem, NULL) == SDPO_DEVICE && says("built without CUDA"),
       "memory of a device that this library cannot reach");
  }
}

/* Programs of other versions of the header: structs that end earlier, or go on further. */
static void versions(batch* b) {
  union {
    sdpo_problem problem;
    unsigned char bytes[sizeof(sdpo_problem) + 16];
  } newer;
  sdpo_options older;
  fill(b);
  ok(sdpo_problem_init(&newer.problem, sizeof newer) == SDPO_OK && newer.bytes[sizeof newer - 1] == 0,
     "a longer struct is initialised whole");
  newer.problem = b->problem;
  newer.problem.struct_size = sizeof newer;
  ok(sdpo_evaluate(&newer.problem, NULL) == SDPO_OK, "a longer problem whose new fields are zero");
  newer.bytes[sizeof newer - 1] = 1;
  ok(sdpo_evaluate(&newer.problem, NULL) == SDPO_INVALID_ARGUMENT && says("does not know"),
     "a new field that is set is refused");

  older = b->options;
  older.struct_size = offsetof(sdpo_options, safeguard);
  older.safeguard = 0.5; /* behind the end of the older struct: not read */
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK, "with today's options");
  {
    const float gradient = b->gradients[1][0];
    b->problem.options = &older;
    ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK && b->gradients[1][0] == gradient,
       "a shorter struct keeps the defaults of new fields");
    older.struct_size = sizeof older;
    ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK && isnan(output(b, "cross", 0)) == 0,
       "a safeguard asks for the cross moment");
  }
}

static void elementwise(batch* b) {
  uint32_t words[8], part[3];
  const double a[ROWS] = {1, 2, 3}, c[ROWS] = {0, 1, -1};
  sdpo_tensor x = b->problem.chosen.policy, y = b->problem.chosen.target;
  sdpo_output out = b->problem.chosen.gradient;
  fill(b);
  ok(sdpo_random_bits(5, 0, 8, words, host(), NULL, 0) == SDPO_OK &&
         sdpo_random_bits(5, 4, 3, part, host(), NULL, 0) == SDPO_OK,
     "random bits");
  ok(memcmp(words + 4, part, sizeof part) == 0, "by position");
  ok(sdpo_noise(5, 0, 1, NULL, 0, host(), NULL, 0) == SDPO_INVALID_ARGUMENT, "noise into nothing");
  ok(sdpo_combine(ROWS, SIZE, a, &x, c, &y, &out, host(), NULL, 0) == SDPO_OK, "combine");
  ok(b->gradients[0][SIZE] == (float)(2.0 * b->tensors[0][SIZE] + 1.0 * b->tensors[2][SIZE]), "a x + b y");
  y.dtype = sdpo_index("dtypes", "float64");
  ok(sdpo_combine(ROWS, SIZE, a, &x, c, &y, &out, host(), NULL, 0) == SDPO_INVALID_ARGUMENT && says("one dtype"),
     "of one dtype");
}

int main(void) {
  static batch b;
  int i;
  names();
  passes(&b);
  failing_calls(&b);
  versions(&b);
  elementwise(&b);
  fill(&b);
  ok(sdpo_evaluate(&b.problem, NULL) == SDPO_OK, "the batch to compare");
  printf("1..%d\n", checks);
  printf("# loss %a\n", b.metrics[0]);
  for (i = 0; i < ROWS * SIZE; ++i) printf("# gradient %a %a\n", (double)b.gradients[0][i], (double)b.gradients[1][i]);
  return failures == 0 ? 0 : 1;
}
