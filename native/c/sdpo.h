/* The C interface of libsdpo: preference losses over memory that the caller owns, on the host or on a CUDA device.
 *
 * Plain C (C99 and C++11 read it). No exception and no longjmp crosses it; every function that can fail returns an
 * sdpo_status and leaves a text behind that sdpo_last_error() gives. Calls may run at the same time on any number of
 * threads. A call on host memory takes at most 64 KiB of its thread's stack. It depends on nothing of the thread's
 * floating-point environment (rounding, flushing of subnormals, traps), which is the same after the call, flags
 * included. Nothing is allocated for the caller and no pointer is kept after a call on host memory returns; a call on
 * device memory only enqueues work on its stream, so its memory must stay valid until the stream has passed it.
 *
 * Closed lists (dtypes, objectives, fields, ...) are numbered by their position in a named list that sdpo_name() and
 * sdpo_index() give, so that a program never has to copy numbers from this header:
 *
 *   "dtypes" "objectives" "links" "pairWeights" "weightRatios" "timestepWeightings" "logRatioReductions" "scopes"
 *   "safeguardScopes" "nonFinite" "options" "rowInputs" "rowOutputs" "metrics" "statuses" "failureTensors" "locations"
 *
 * What the fields mean is in docs/mathematics.md (symbols) and docs/api.md (options and statistics). */
#ifndef SDPO_H_
#define SDPO_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SDPO_API __attribute__((visibility("default")))
#else
#define SDPO_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when an existing declaration changes its meaning. Appending a field to a struct does not: see `struct_size`.
 */
#define SDPO_ABI_VERSION 2

typedef enum sdpo_status {
  SDPO_INTERNAL = -2,         /* a failure of the library itself */
  SDPO_INVALID_ARGUMENT = -1, /* the call was not made; sdpo_last_error() names the argument */
  SDPO_OK = 0,
  SDPO_NON_FINITE = 1,      /* with nonFinite 'throw': the first bad row is in sdpo_failure */
  SDPO_ELEMENT_WEIGHTS = 2, /* the element weights of a row are negative, not finite, or sum to 0 */
  SDPO_ABORTED = 3,
  SDPO_OUT_OF_MEMORY = 4,
  SDPO_DEVICE = 5 /* the device failed, or this build has no backend for it */
} sdpo_status;

/* Positions in the list "locations". */
typedef enum sdpo_location_kind { SDPO_HOST = 0, SDPO_CUDA = 1 } sdpo_location_kind;

typedef struct sdpo_location {
  int32_t kind;
  int32_t ordinal; /* device number; 0 for the host */
} sdpo_location;

/* `rows` runs of `size` contiguous elements; consecutive rows start `row_stride` elements apart (0: one row serves all
 * of them). data == NULL: the tensor is not given. What is written has to be aligned to its dtype; so has everything
 * that lies on a device. */
typedef struct sdpo_tensor {
  const void* data;
  int64_t row_stride;
  int32_t dtype;
  int32_t reserved; /* 0 */
} sdpo_tensor;

typedef struct sdpo_output {
  void* data;
  int64_t row_stride;
  int32_t dtype;
  int32_t reserved; /* 0 */
} sdpo_output;

typedef struct sdpo_branch {
  sdpo_tensor policy;
  sdpo_tensor reference; /* not given: the row input "referenceError..." stands in, and the drift does not exist */
  sdpo_tensor target;
  sdpo_output gradient; /* d loss / d policy; not given: not wanted */
} sdpo_branch;

/* One number of every row: a list, or one number for all of them. */
typedef struct sdpo_column {
  const void* data; /* [rows], float64 or float32; NULL: `value` serves all rows */
  double value;
  int32_t dtype;    /* of `data` */
  int32_t location; /* of `data`: SDPO_HOST, or SDPO_CUDA where tensors and scalars are on that device */
} sdpo_column;

/* Fill it with sdpo_options_init, then change what differs. Enumerators are positions in the lists named beside them.
 * Names and order are those of the list "options". */
typedef struct sdpo_options {
  size_t struct_size; /* sizeof(sdpo_options) of the caller, set by sdpo_options_init */
  int32_t objective;  /* default "diffusion-dpo" */
  int32_t link;
  int32_t pair_weight;         /* "pairWeights"; automatic: one weight per branch for sdpo, geometric for dpo-cm */
  int32_t weight_ratio;        /* "weightRatios" */
  int32_t timestep_weighting;  /* "timestepWeightings" */
  int32_t log_ratio_reduction; /* "logRatioReductions" */
  int32_t sft_scope;           /* "scopes" */
  int32_t kl_scope;            /* "scopes" */
  int32_t safeguard_scope;     /* "safeguardScopes" */
  int32_t non_finite;          /* "nonFinite" */
  int32_t weight_gradient;     /* 0 or 1 */
  double beta;                 /* > 0; default 1 */
  double label_smoothing;
  double clip_low, clip_high;                     /* bounds of the weights; default 0.9 and 1.1 */
  double weight_sharpness;                        /* kappa; default 1 */
  double weight_exponent;                         /* e of the weight exp(e lambda); default 1 */
  double log_ratio_clip_low, log_ratio_clip_high; /* bounds of exp of a branch's log-ratio; default 0 and infinity */
  double window_low, window_high;                 /* timesteps outside are removed; default everything */
  double sft_weight;
  double kl_weight;
  double safeguard;    /* mu of the safeguard on the rejected gradient; negative (the default): off */
  double dmpo_alpha;   /* 'dmpo'; default 0.01 */
  double mapo_scale;   /* 'mapo'; default 0.5 */
  double mapo_steps;   /* 'mapo'; default 1000 */
  double linear_floor; /* 'linear-dpo'; default 0.01 */
} sdpo_options;

/* One batch. Fill it with sdpo_problem_init, then set what the call needs.
 *
 * `columns` are the numbers per row, as docs/mathematics.md means them: entry f is the field at position f of the list
 * "rowInputs". sdpo_columns_init gives all of them their defaults: omegaChosen, omegaRejected (needed with weights or
 * elbo weighting), timestepChosen, timestepRejected (read with a window or a table), offset, noise, referenceError,
 * betaScale of each branch, margin, keep, maskThreshold (0.9), rowWeight.
 *
 * row_outputs and metrics are float64. row_outputs is stored field by field: field f of row i is at [f * rows + i],
 * with f a position in "rowOutputs"; metrics has one number per name of "metrics". They lie where `scalars` says, the
 * tensors where `tensors` says. With tensors on a CUDA device:
 *
 *   - scalars on the host: the call waits for the results and reports a failure in its status;
 *   - scalars on that device: the call enqueues its work on `stream` and returns. Rows with a non-finite value are told
 *     by the row output nonFinite and the metric nonFiniteRows only, and with nonFinite 'throw' their gradient is NaN,
 *     as are their coefficients aChosen and aRejected. Element weights that are not as they should be make all
 *     numbers of their row and its gradient NaN. */
typedef struct sdpo_problem {
  size_t struct_size; /* sizeof(sdpo_problem) of the caller, set by sdpo_problem_init */
  int64_t rows;
  int64_t size; /* D, elements of a row */
  sdpo_branch chosen;
  sdpo_branch rejected;
  sdpo_tensor element_weights; /* of both branches, or of chosen where `rejected_element_weights` are given; not given:
                                  all 1; row_stride 0: one row of D weights serves all rows */
  sdpo_location tensors;
  sdpo_location scalars;
  const sdpo_column* columns; /* NULL: every row input has its default */
  int32_t column_count;       /* entries of `columns`; row inputs beyond have their defaults */
  int32_t threads;            /* host: 0 (the default) is sdpo_default_threads() */
  const double*
      omega_table; /* omega of timestep 0, 1, ..., where the columns omega have no list; lies with the tensors */
  int64_t omega_count;
  double* row_outputs;
  double* metrics;
  const sdpo_options* options;
  double denominator;    /* what the sum over rows is divided by; 0 (the default): the number of rows */
  double gradient_scale; /* multiplies the gradient coefficients before any rounding; default 1 */
  int32_t cross;    /* 1: also the mean of d_c d_r, into the row output "cross" (a safeguard asks for it by itself) */
  int32_t reserved; /* 0 */
  void* stream;     /* CUDA: the cudaStream_t that the work is enqueued on */
  sdpo_tensor rejected_element_weights; /* of rejected, beside those of chosen in `element_weights`: each branch has its
                                           own means, and `cross` and a safeguard, whose mean pairs the elements of both
                                           branches, are refused */
} sdpo_problem;

/* Which value a failure is about. */
typedef struct sdpo_failure {
  int64_t row; /* -1: none */
  int64_t element;
  int32_t branch; /* 0 chosen, 1 rejected */
  int32_t tensor; /* "failureTensors" */
} sdpo_failure;

/* ---- What this library is */

SDPO_API const char* sdpo_version(void); /* of the package, as "0.1.0" */
SDPO_API int sdpo_abi_version(void);
SDPO_API int sdpo_has_cuda(void); /* 1: this build has a CUDA backend (whether a device is there is another question) */
SDPO_API const char* sdpo_instruction_set(void); /* of the CPU backend: "baseline", "avx2", "avx512" */
/* Of the CPU backend: SDPO_NUM_THREADS; else the processors of the affinity of the thread that asks first, or fewer
 * where a quota of its control group says so. 0: SDPO_NUM_THREADS is set to something else than an integer from 1 to
 * 4096, as sdpo_last_error() says, and calls on host memory that leave their threads to it are refused. */
SDPO_API int sdpo_default_threads(void);

/* Text of the last failure on this thread, or "" when the last call on it succeeded. Valid until the next call on this
 * thread. */
SDPO_API const char* sdpo_last_error(void);

/* The name at a position of a list, or NULL behind its end and for an unknown list. */
SDPO_API const char* sdpo_name(const char* list, int index);
/* The position of a name in a list, or -1. */
SDPO_API int sdpo_index(const char* list, const char* name);
/* How many names a list has, or -1 for an unknown one. */
SDPO_API int sdpo_count(const char* list);

/* ---- The loss */

/* Set everything to its default: the options to those of docs/api.md (objective 'diffusion-dpo', beta 1), the problem
 * to no rows on the host. `struct_size` is sizeof of the caller's struct: a program built against an older header
 * passes a smaller one, and the fields it does not know keep their defaults; a newer program's fields that this library
 * does not know must be zero. */
SDPO_API sdpo_status sdpo_options_init(sdpo_options* options, size_t struct_size);
SDPO_API sdpo_status sdpo_problem_init(sdpo_problem* problem, size_t struct_size);
/* Sets `count` columns, normally sdpo_count("rowInputs"), to the defaults of their fields. */
SDPO_API sdpo_status sdpo_columns_init(sdpo_column* columns, int32_t count);

/* Moments, objective and gradient in one fused call; without gradient outputs only all row outputs and metrics.
 * `failure` may be NULL. */
SDPO_API sdpo_status sdpo_evaluate(const sdpo_problem* problem, sdpo_failure* failure);

/* Makes room for every call on such a problem, fused or pass by pass, in the workspace of its stream on its device, so
 * that none of them allocates. Needed before a call is captured into a CUDA graph, which has to have its scalars on the
 * device: a workspace cannot grow during a capture (SDPO_DEVICE), and calls whose results the host reads cannot be
 * captured. The graph uses that workspace, which stays as long as the process: launch it on that stream, or while
 * nothing else runs there. Nothing to do for a problem on the host. */
SDPO_API sdpo_status sdpo_reserve(const sdpo_problem* problem);

/* The three passes by themselves, for rows whose elements are cut into parts (over devices, ranks or tensors), and for
 * whatever needs a barrier between them (docs/mathematics.md, section 6).
 *
 * sdpo_moments writes the moments of the elements that it is given into the row outputs errorChosen ... driftRejected,
 * deltaChosen, deltaRejected, cross (where asked for), elementSumChosen and elementSumRejected (D, or the sum of the
 * branch's element weights).
 * sdpo_combine_moments joins those of parts: `parts` are `count` arrays of row outputs of the same rows, on the host,
 * of which `row_outputs` may be one. sdpo_objective reads them and no tensor, and writes all other row outputs and the
 * metrics. aChosen, aRejected, bChosen and bRejected are the coefficients of the gradient, gradient_scale / denominator
 * included. sdpo_gradients writes (2/D)(a d + b h) for the elements that it is given, from the coefficients in
 * row_outputs: those of sdpo_objective, scaled by the caller as it likes. D is elementSumChosen or elementSumRejected
 * where that is above 0, so that a part is divided by the elements of the whole, else what the tensors have.
 * gradient_scale and denominator are not applied again. */
SDPO_API sdpo_status sdpo_moments(const sdpo_problem* problem, sdpo_failure* failure);
SDPO_API sdpo_status sdpo_combine_moments(int64_t rows, int32_t count, const double* const* parts, double* row_outputs);
SDPO_API sdpo_status sdpo_objective(const sdpo_problem* problem, sdpo_failure* failure);
SDPO_API sdpo_status sdpo_gradients(const sdpo_problem* problem, sdpo_failure* failure);

/* ---- Beside the loss */

/* out[row, :] = a[row] * x[row, :] + b[row] * y[row, :], computed in float64 and rounded once. x, y and out have one
 * dtype and lie at `location`; a and b lie on the host and may go when the function returns. */
SDPO_API sdpo_status sdpo_combine(int64_t rows, int64_t size, const double* a, const sdpo_tensor* x, const double* b,
                                  const sdpo_tensor* y, const sdpo_output* out, sdpo_location location, void* stream,
                                  int32_t threads);

/* Elements offset ... offset + count - 1 of the stream of normals of `seed` (Philox4x32-10 by counter, Box-Muller), in
 * `dtype`. `offset` is at most 2^63. */
SDPO_API sdpo_status sdpo_noise(uint64_t seed, uint64_t offset, int64_t count, void* out, int32_t dtype,
                                sdpo_location location, void* stream, int32_t threads);

/* The 32-bit words that those normals are made of. */
SDPO_API sdpo_status sdpo_random_bits(uint64_t seed, uint64_t offset, int64_t count, uint32_t* out,
                                      sdpo_location location, void* stream, int32_t threads);

#ifdef __cplusplus
}
#endif

#endif
