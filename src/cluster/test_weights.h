// Ember, one of its slices, and the arena that its files give, for the tests of what goes over the
// bulk lane.
#pragma once

#include <gtest/gtest.h>

#include <utility>

#include "backend/backend.h"
#include "backend/test_model.h"
#include "model/model.h"

namespace conclave::cluster {

using backend::ember;

inline model::Slice some_slice() { return backend::three_slices()[1]; }

inline backend::WeightArena memory_of(std::size_t bytes) {
  auto memory = backend::SharedMemory::create_shared(bytes);
  EXPECT_TRUE(memory);
  return std::move(*memory);
}

inline backend::WeightArena slice_arena(const model::Slice& slice) {
  const backend::CpuOptions options;
  backend::WeightArena arena = memory_of(backend::cpu_slice_bytes(ember(), slice, options));
  ThreadPool pool(1);
  backend::LocalPackedSource from(ember(), pool);
  EXPECT_TRUE(backend::load_slice(ember(), slice, options, from, arena, {}));
  return arena;
}

inline backend::WeightArena common_arena() {
  const backend::CpuOptions options;
  backend::WeightArena arena = memory_of(backend::cpu_common_bytes(ember(), true, options));
  ThreadPool pool(1);
  backend::LocalPackedSource from(ember(), pool);
  EXPECT_TRUE(backend::load_common(ember(), true, options, from, arena, {}));
  return arena;
}

}  // namespace conclave::cluster
