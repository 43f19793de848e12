// Elementwise operations on the CPU: a x + b y row by row, and noise by counter.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "../core/float_environment.h"
#include "../core/philox.h"
#include "cpu.h"
#include "processors.h"
#include "threads.h"

namespace sdpo::cpu {
namespace {

// Tiles handed out at a time, so that a ticket costs nothing beside the work it stands for.
constexpr int64_t kTilesPerTicket = 8;

// Elements that are converted at a time, on the stack of a participant.
constexpr int64_t kBlock = 1024;

// Elements below which waking a helper costs more than it saves: on a busy machine a helper may come late, and the
// caller waits for it. A normal number takes some twenty times as long as a sum of two products.
constexpr int64_t kCombineAloneBelow = 131072;
constexpr int64_t kNoiseAloneBelow = 8192;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();  // the one NaN of all results

// Runs body(begin, end) over [0, count) in pieces that do not depend on the number of threads.
template <class Body>
void share(int64_t count, int threads, const Body& body) {
  constexpr int64_t kPiece = kTile * kTilesPerTicket;
  const int64_t pieces = (count + kPiece - 1) / kPiece;
  const int wanted = threads > 0 ? threads : default_threads().count;
  std::atomic<int64_t> ticket{0};
  run_on_threads(static_cast<int>(std::min<int64_t>(wanted, pieces)), [&] {
    for (int64_t piece; (piece = ticket.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
      body(piece * kPiece, std::min(count, (piece + 1) * kPiece));
    }
  });
}

}  // namespace

Status combine(const CombineProblem& problem) {
  const FloatEnvironment environment;
  const KernelTable& table = kernels();
  const int type = static_cast<int>(problem.out.dtype);
  const int64_t tiles_per_row = (problem.size + kTile - 1) / kTile;
  // Rows may be shorter than a tile, so it is the elements that are counted, not the tiles.
  const int threads = problem.rows * problem.size < kCombineAloneBelow ? 1 : problem.threads;
  share(problem.rows * tiles_per_row * kTile, threads, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin / kTile; tile * kTile < end; ++tile) {
      const int64_t row = tile / tiles_per_row, element = tile % tiles_per_row * kTile;
      const int64_t last = std::min(element + kTile, problem.size);
      const double a = problem.a[row], b = problem.b[row];
      for (int64_t start = element; start < last; start += kBlock) {
        const int64_t n = std::min(kBlock, last - start);
        double x[kBlock], y[kBlock];
        table.widen[type][1](problem.x.at(row, start), x, n);
        table.widen[type][1](problem.y.at(row, start), y, n);
        for (int64_t i = 0; i < n; ++i) {
          const double sum = a * x[i] + b * y[i];
          x[i] = sum == sum ? sum : kNaN;
        }
        table.narrow[type][1](x, problem.out.at(row, start), n);
      }
    }
  });
  return Status::ok;
}

Status noise(const NoiseProblem& problem) {
  const FloatEnvironment environment;
  const KernelTable& table = kernels();
  const int type = static_cast<int>(problem.dtype);
  share(problem.count, problem.count < kNoiseAloneBelow ? 1 : problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t start = begin; start < end; start += kBlock) {
      const int64_t n = std::min(kBlock, end - start);
      double normals[kBlock];
      uint32_t words[kBlock];
      for (int64_t i = 0; i < n;) {
        // The first and the last block may be cut by offset and count; every element is the same whatever the cut.
        const uint64_t element = problem.offset + static_cast<uint64_t>(start + i);
        const Philox4 block = philox4x32_10(element >> 2, problem.seed);
        double quad[4];
        if (!problem.words) {
          box_muller(block.v[0], block.v[1], quad);
          box_muller(block.v[2], block.v[3], quad + 2);
        }
        for (uint64_t lane = element & 3; lane < 4 && i < n; ++lane, ++i) {
          if (problem.words) {
            words[i] = block.v[lane];
          } else {
            normals[i] = quad[lane];
          }
        }
      }
      if (problem.words) {
        std::memcpy(static_cast<uint32_t*>(problem.out) + start, words, static_cast<size_t>(n) * sizeof(uint32_t));
      } else {
        char* out = static_cast<char*>(problem.out) + start * static_cast<int64_t>(dtype_size(problem.dtype));
        table.narrow[type][1](normals, out, n);
      }
    }
  });
  return Status::ok;
}

}  // namespace sdpo::cpu
