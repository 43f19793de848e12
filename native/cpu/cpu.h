// The operations of the CPU backend and the choice of its instruction set.
#pragma once

#include "../core/backend.h"
#include "kernels.h"

namespace sdpo::cpu {

// The best table this processor can run; SDPO_ISA (baseline, avx2, avx512) asks for a lesser one.
const KernelTable& kernels();

Status evaluate(const Problem& problem, Failure* failure);
Status combine(const CombineProblem& problem);
Status noise(const NoiseProblem& problem);

}  // namespace sdpo::cpu
