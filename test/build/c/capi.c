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

enum { ROWS = 3, SIZE = 40, HALF = 16, INPUTS = 64, OUTPUTS = 64, METRICS = 64 };

typedef struct {
  float tensors[6][ROWS * SIZE]; /* policy, reference, target of chosen; of rejected */
  float gradients[2][ROWS * SIZE];
  sdpo_column columns[INPUTS];
  double outputs[OUTPUTS * ROWS];
  double metrics[METRICS];
  sdpo_options options;
  sdpo_problem problem;
} batch;

static sdpo_location host(void) {
  sdpo_location location = {SDPO_HOST, 0};
  return location;
}

static sdpo_column* column(batch* b, const char* name) { return &b->columns[sdpo_index("rowInputs", name)]; }

static void set_list(batch* b, const char* name, const void* list, const char* dtype) {
  column(b, name)->data = list;
  column(b, name)->dtype = sdpo_index("dtypes", dtype);
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

/* Noise as tensors, and Diffusion-DPO with beta = 4. */
static void fill(batch* b) {
  int i;
  memset(b, 0, sizeof *b);
  for (i = 0; i < 6; ++i) {
    ok(sdpo_noise((uint64_t)i, 0, ROWS * SIZE, b->tensors[i], sdpo_index("dtypes", "float32"), host(), NULL, 1) ==
           SDPO_OK,
       "noise");
  }
  ok(sdpo_columns_init(b->columns, INPUTS) == SDPO_OK, "columns_init");
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
  b->problem.columns = b->columns;
  b->problem.column_count = sdpo_count("rowInputs");
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
  static const char* const lists[] = {"dtypes",
                                      "objectives",
                                      "links",
                                      "pairWeights",
                                      "weightRatios",
                                      "timestepWeightings",
                                      "logRatioReductions",
                                      "scopes",
                                      "safeguardScopes",
                                      "nonFinite",
                                      "options",
                                      "rowInputs",
                                      "rowOutputs",
                                      "metrics",
                                      "statuses",
                                      "failureTensors",
                                      "locations"};
  size_t i;
  for (i = 0; i < sizeof lists / sizeof lists[0]; ++i) {
    int n = 0;
    while (sdpo_name(lists[i], n) != NULL) {
      if (sdpo_index(lists[i], sdpo_name(lists[i], n)) != n) break;
      ++n;
    }
    ok(n > 0 && sdpo_name(lists[i], n) == NULL && sdpo_count(lists[i]) == n, lists[i]);
  }
  ok(sdpo_index("objectives", "unknown") == -1 && sdpo_index("unknown", "sdpo") == -1,
     "an unknown name has no position");
  ok(sdpo_count("unknown") == -1 && sdpo_count(NULL) == -1, "nor an unknown list a length");
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
  ok(sdpo_reserve(&two.problem) == SDPO_OK && two.gradients[0][0] == 0, "on the host there is nothing to reserve");
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

/* Numbers per row as a list of either dtype, as one number, and by a table. */
static void columns(batch* b) {
  static const float weights[ROWS] = {2, 0, 1};
  static const double same[ROWS] = {2, 0, 1}, keep[ROWS] = {1, 0, 1}, steps[ROWS] = {0, 2, 1}, table[3] = {1, 4, 9};
  batch two = *b;
  fill(b);
  set_list(b, "rowWeight", weights, "float32");
  fill(&two);
  set_list(&two, "rowWeight", same, "float64");
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK && sdpo_evaluate(&two.problem, NULL) == SDPO_OK &&
         b->metrics[0] == two.metrics[0] && output(b, "loss", 1) == 0 && output(b, "loss", 0) > 0,
     "a list of float32 is one of float64");
  fill(b);
  set_list(b, "keep", keep, "float64");
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK && output(b, "mask", 0) == 1 && output(b, "mask", 1) == 0, "keep");
  fill(b);
  column(b, "betaScaleChosen")->value = column(b, "betaScaleRejected")->value = 0;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK && fabs(output(b, "loss", 2) - log(2)) < 1e-12, "one number for all");
  fill(b);
  b->options.timestep_weighting = sdpo_index("timestepWeightings", "elbo");
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_NON_FINITE, "omega has no default where it is read");
  set_list(b, "timestepChosen", steps, "float64");
  set_list(b, "timestepRejected", steps, "float64");
  b->problem.omega_table = table;
  b->problem.omega_count = 3;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK &&
         output(b, "rewardChosen", 1) == -(4 * 9.0) * output(b, "deltaChosen", 1),
     "omega by the timestep");
  b->options.window_high = 1;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK && output(b, "mask", 1) == 0 && output(b, "mask", 2) == 1, "a window");
  fill(b);
  b->problem.column_count = 1;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK, "columns that are not given have their defaults");
  b->problem.column_count = INPUTS;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK, "columns of a newer header that are not set");
  b->columns[INPUTS - 1].value = 1;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("one more"), "or are");
  fill(b);
  set_list(b, "margin", same, "bfloat16");
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("margin") && says("bfloat16"), "16 bits");
  fill(b);
  set_list(b, "margin", same, "float64");
  column(b, "margin")->location = SDPO_CUDA;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("margin") && says("host"), "a device's list");
  fill(b);
  b->problem.columns = NULL;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("column_count"), "columns that are missing");
}

/* The elements of every row in two parts give what the whole rows give. */
static void parts(batch* b) {
  static batch halves[2];
  const double* outputs[2];
  double worst = 0;
  int k, i;
  fill(b);
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK, "the whole");
  for (k = 0; k < 2; ++k) {
    batch* half = &halves[k];
    const int first = k == 0 ? 0 : HALF;
    fill(half);
    half->problem.size = k == 0 ? HALF : SIZE - HALF;
    half->problem.chosen.policy.data = half->tensors[0] + first;
    half->problem.chosen.reference.data = half->tensors[1] + first;
    half->problem.chosen.target.data = half->tensors[2] + first;
    half->problem.rejected.policy.data = half->tensors[3] + first;
    half->problem.rejected.reference.data = half->tensors[4] + first;
    half->problem.rejected.target.data = half->tensors[5] + first;
    half->problem.chosen.gradient.data = half->gradients[0] + first;
    half->problem.rejected.gradient.data = half->gradients[1] + first;
    ok(sdpo_moments(&half->problem, NULL) == SDPO_OK, "moments of a part");
    outputs[k] = half->outputs;
  }
  ok(output(&halves[0], "elementSumChosen", 0) == HALF && output(&halves[0], "elementSumRejected", 0) == HALF,
     "know their elements");
  {
    static batch whole;
    fill(&whole);
    whole.problem.size = 0;
    memset(&whole.problem.chosen, 0, sizeof whole.problem.chosen);
    memset(&whole.problem.rejected, 0, sizeof whole.problem.rejected);
    ok(sdpo_combine_moments(ROWS, 2, outputs, whole.outputs) == SDPO_OK, "combine_moments");
    ok(output(&whole, "elementSumChosen", 2) == SIZE, "add the elements up");
    ok(sdpo_objective(&whole.problem, NULL) == SDPO_OK, "objective without a tensor");
    ok(fabs(whole.metrics[0] - b->metrics[0]) < 1e-7 * b->metrics[0], "the loss of the whole");
    for (k = 0; k < 2; ++k) {
      memcpy(halves[k].outputs, whole.outputs, sizeof whole.outputs);
      ok(sdpo_gradients(&halves[k].problem, NULL) == SDPO_OK, "the gradient of a part");
    }
  }
  for (i = 0; i < ROWS * SIZE; ++i) {
    for (k = 0; k < 2; ++k) {
      const float got = (i % SIZE < HALF ? halves[0] : halves[1]).gradients[k][i];
      worst = fmax(worst, fabs(got - b->gradients[k][i]));
    }
  }
  ok(worst < 1e-7, "is that of the whole");
  {
    static batch joined;
    int same = 1;
    for (k = 0; k < 2; ++k) ok(sdpo_moments(&halves[k].problem, NULL) == SDPO_OK, "moments of a part again");
    ok(sdpo_combine_moments(ROWS, 2, outputs, joined.outputs) == SDPO_OK, "joined");
    ok(sdpo_combine_moments(ROWS, 2, outputs, halves[0].outputs) == SDPO_OK, "joined in the place of a part");
    for (i = 0; i < ROWS; ++i) {
      same = output(&joined, "errorChosen", i) == output(&halves[0], "errorChosen", i) &&
             output(&joined, "deltaRejected", i) == output(&halves[0], "deltaRejected", i) &&
             output(&joined, "elementSumRejected", i) == output(&halves[0], "elementSumRejected", i) && same;
    }
    ok(same, "gives the same");
  }
  ok(sdpo_combine_moments(ROWS, 0, outputs, b->outputs) == SDPO_INVALID_ARGUMENT && says("count"), "no parts");
  outputs[1] = NULL;
  ok(sdpo_combine_moments(ROWS, 2, outputs, b->outputs) == SDPO_INVALID_ARGUMENT && says("parts[1]"), "a missing part");
}

/* Each branch has what it has where its weights are those of both. */
static void weights_of_each_branch(batch* b) {
  static batch shared[2];
  float weights[2][SIZE];
  int i, k;
  for (i = 0; i < SIZE; ++i) {
    weights[0][i] = (float)(i % 3);
    weights[1][i] = (float)(1 + i % 2);
  }
  for (k = 0; k < 2; ++k) {
    fill(&shared[k]);
    set_tensor(&shared[k].problem.element_weights, weights[k]);
    shared[k].problem.element_weights.row_stride = 0;
    ok(sdpo_evaluate(&shared[k].problem, NULL) == SDPO_OK, "one weighting");
  }
  fill(b);
  b->problem.element_weights = shared[0].problem.element_weights;
  b->problem.rejected_element_weights = shared[1].problem.element_weights;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK, "a weighting of each branch");
  for (i = 0; i < ROWS; ++i) {
    ok(output(b, "errorChosen", i) == output(&shared[0], "errorChosen", i), "the error of chosen");
    ok(output(b, "errorRejected", i) == output(&shared[1], "errorRejected", i), "the error of rejected");
    ok(output(b, "deltaRejected", i) == output(&shared[1], "deltaRejected", i), "its delta");
    ok(output(b, "elementSumChosen", i) == output(&shared[0], "elementSumRejected", i), "the sum of chosen");
    ok(output(b, "elementSumRejected", i) == output(&shared[1], "elementSumChosen", i), "the sum of rejected");
    ok(output(b, "elementSumChosen", i) != output(b, "elementSumRejected", i), "which differ");
  }
  b->problem.cross = 1;
  ok(sdpo_moments(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("rejected_element_weights") && says("cross"),
     "no mean over pairs of elements");
  b->problem.cross = 0;
  b->options.safeguard = 0.5;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("safeguard"), "nor a safeguard");
  b->options.safeguard = -1;
  weights[1][2] = -1;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_ELEMENT_WEIGHTS, "a negative weight of rejected");
  b->problem.element_weights.data = NULL;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("problem.element_weights to be given"),
     "those of rejected alone");
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
  column(b, "referenceErrorRejected")->value = NAN;
  b->problem.rejected.reference.data = NULL;
  ok(sdpo_evaluate(&b->problem, &failure) == SDPO_NON_FINITE && failure.row == 0 && failure.branch == 1 &&
         failure.element == -1,
     "a reference error that is NaN");
  ok(says("referenceError of row 0 (rejected)") && !says("element"), "is none of an element");

  fill(b);
  b->problem.rejected.gradient.data = (char*)b->gradients[1] + 2;
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_INVALID_ARGUMENT && says("rejected.gradient to be aligned"),
     "a gradient between two elements");
  b->problem.rejected.gradient.dtype = sdpo_index("dtypes", "float16");
  ok(sdpo_evaluate(&b->problem, NULL) == SDPO_OK, "which suits another dtype");
  {
    const int32_t float32 = sdpo_index("dtypes", "float32");
    ok(sdpo_noise(1, 0, 4, (char*)weights + 1, float32, host(), NULL, 0) == SDPO_INVALID_ARGUMENT &&
           says("out to be aligned"),
       "noise between two elements");
    ok(sdpo_noise(1, ((uint64_t)1 << 63) + 1, 4, weights, float32, host(), NULL, 0) == SDPO_INVALID_ARGUMENT &&
           says("2^63"),
       "noise from where positions end");
    ok(sdpo_noise(1, (uint64_t)1 << 63, 4, weights, float32, host(), NULL, 0) == SDPO_OK, "and before");
  }

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
  ok(sdpo_reserve(NULL) == SDPO_INVALID_ARGUMENT && says("NULL"), "nothing to reserve for");
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
  columns(&b);
  parts(&b);
  weights_of_each_branch(&b);
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
