// What this binary is: every closed list and every field layout by name, so that lib/ can check at load time that it
// speaks to its own binary, and what each objective reads.
#include "call.h"
#include "exports.h"

namespace sdpo {
namespace {

template <size_t N>
Napi::Array names(Napi::Env env, const char* const (&list)[N]) {
  Napi::Array out = Napi::Array::New(env, N);
  for (size_t i = 0; i < N; ++i) out.Set(static_cast<uint32_t>(i), list[i]);
  return out;
}

// By objective: how many weights it has, whether it reads the reference, has a link, needs the drift; and the row
// inputs that it uses.
Napi::Object traits(Napi::Env env) {
  Napi::Object out = Napi::Object::New(env);
  for (size_t i = 0; i < NamesOf<Objective>::count; ++i) {
    const auto objective = static_cast<Objective>(i);
    const ObjectiveTraits of = traits_of(objective);
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("weights", of.weights);
    entry.Set("reference", of.reference);
    entry.Set("link", of.link);
    entry.Set("drift", of.drift);
    Napi::Array reads = Napi::Array::New(env);
    for (int field = 0; field < RowInput::count; ++field) {
      if (reads_column(objective, static_cast<RowInput::Index>(field)))
        reads.Set(reads.Length(), kRowInputNames[field]);
    }
    entry.Set("rowInputs", reads);
    out.Set(kObjectiveNames[i], entry);
  }
  return out;
}

// What the values of each row input have to be.
Napi::Array row_checks(Napi::Env env) {
  Napi::Array out = Napi::Array::New(env);
#define SDPO_CHECK(id, value, check) out.Set(out.Length(), NamesOf<RowCheck>::names[static_cast<int>(RowCheck::check)]);
  SDPO_ROW_INPUTS(SDPO_CHECK)
#undef SDPO_CHECK
  return out;
}

Napi::Array row_defaults(Napi::Env env) {
  Napi::Array out = Napi::Array::New(env);
  for (const double value : kRowInputDefaults) out.Set(out.Length(), value);
  return out;
}

}  // namespace

void export_tables(Napi::Env env, Napi::Object exports) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("dtypes", names(env, kDTypeNames));
  out.Set("objectives", names(env, kObjectiveNames));
  out.Set("links", names(env, kLinkNames));
  out.Set("pairWeights", names(env, kPairWeightNames));
  out.Set("weightRatios", names(env, kWeightRatioNames));
  out.Set("timestepWeightings", names(env, kTimestepWeightingNames));
  out.Set("logRatioReductions", names(env, kLogRatioReductionNames));
  out.Set("scopes", names(env, kScopeNames));
  out.Set("safeguardScopes", names(env, kSafeguardScopeNames));
  out.Set("nonFinite", names(env, kNonFiniteNames));
  out.Set("options", names(env, kOptionNames));
  out.Set("rowInputs", names(env, kRowInputNames));
  out.Set("rowChecks", row_checks(env));
  out.Set("rowSources", names(env, kRowSourceNames));
  out.Set("rowOutputs", names(env, kRowOutputNames));
  out.Set("metrics", names(env, kMetricNames));
  out.Set("header", names(env, kHeaderNames));
  out.Set("operands", names(env, kOperandNames));
  out.Set("statuses", names(env, kStatusNames));
  out.Set("failureTensors", names(env, kFailureTensorNames));
  out.Set("failureFields", names(env, kFailureFieldNames));
  exports.Set("tables", out);
  exports.Set("traits", traits(env));
  exports.Set("rowDefaults", row_defaults(env));
}

}  // namespace sdpo
