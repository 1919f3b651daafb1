#include <array>
#include <optional>
#include <string>

#include "kernels/isa_tables.h"
#include "kernels/kernels.h"

namespace conclave::kernels {
namespace {

// Slowest first. Filled once; every later call reads it.
const std::array<std::optional<Operations>, 4>& tables() {
  static const std::array<std::optional<Operations>, 4> all = {
      scalar_operations(), neon_operations(), avx2_operations(), avx512_operations()};
  return all;
}

constexpr std::array<Isa, 4> kOrder = {Isa::kScalar, Isa::kNeon, Isa::kAvx2, Isa::kAvx512Vnni};

}  // namespace

std::string_view name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512Vnni:
      return "avx512";
    case Isa::kNeon:
      return "neon";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (std::size_t i = 0; i < kOrder.size(); ++i) {
    if (tables()[i].has_value()) isas.push_back(kOrder[i]);
  }
  return isas;
}

Result<Isa> choose_isa(std::string_view wanted) {
  const std::vector<Isa> isas = available_isas();
  if (wanted.empty() || wanted == "auto") return isas.back();
  std::string choices;
  for (const Isa isa : isas) {
    if (name(isa) == wanted) return isa;
    choices += choices.empty() ? "" : ", ";
    choices += name(isa);
  }
  return invalid_input("instruction set '" + std::string(wanted) +
                       "' is not available here; choose one of: " + choices);
}

const Operations& operations(Isa isa) {
  for (std::size_t i = 0; i < kOrder.size(); ++i) {
    if (kOrder[i] != isa) continue;
    CHECK(tables()[i].has_value());
    return *tables()[i];
  }
  check_failed("unknown Isa", __FILE__, __LINE__);
}

}  // namespace conclave::kernels
