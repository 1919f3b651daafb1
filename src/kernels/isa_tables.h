// One function per instruction set, each defined in its own folder. CMake compiles those that the
// target can have; no_x86.cc and no_neon.cc say nullopt for
// the others. Private to this module.
#pragma once

#include <optional>

#include "kernels/kernels.h"

namespace conclave::kernels {

Operations scalar_operations();
// nullopt where this machine lacks AVX2 or FMA, or AVX-512 F/BW/DQ/VL/VNNI. `sequential` chooses
// how weights are read (lanes.h); absent: as suits this processor's maker.
std::optional<Operations> avx2_operations(std::optional<bool> sequential = {});
std::optional<Operations> avx512_operations(std::optional<bool> sequential = {});
std::optional<Operations> neon_operations();  // nullopt where it lacks the dot product

}  // namespace conclave::kernels
