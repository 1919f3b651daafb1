// One table of a catalogue or a cluster file -> one value. docs/planner.md describes every key.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plan/catalogue.h"
#include "plan/toml_reader.h"

namespace conclave::plan {

// `base` holds what the table need not say; without one, what has no default must be there.
// `more_keys` are the caller's own. The name is the caller's to read.
Result<Machine> read_machine(const TomlTable& table, const Machine* base,
                             std::span<const std::string_view> more_keys);
Result<Link> read_link(const TomlTable& table);
Result<Software> read_software(const TomlTable& table);
Result<CatalogueModel> read_model(const TomlTable& table);
// One [[model.quant]].
Result<Quant> read_quant(const TomlTable& table, const Architecture& architecture);

// The values of an enum by name: Class of {"apple", "cuda", ...}.
template <class Enum, std::size_t n>
Result<Enum> read_enum(const TomlTable& table, std::string_view key) {
  std::string expected;
  const std::string text = TRY(table.text_or(key, ""));
  for (std::size_t i = 0; i < n; ++i) {
    const std::string_view name = name_of(static_cast<Enum>(i));
    if (text == name) return static_cast<Enum>(i);
    expected += (i == 0 ? "" : i + 1 == n ? " or " : ", ") + std::string(name);
  }
  return table.wrong(key, expected);
}

// "; the closest are a, b, c": at most three that share something with what was wanted. All of them
// when they are three or fewer, and how many there are when none shares anything.
std::string closest_names(std::string_view wanted, std::span<const std::string_view> names);

}  // namespace conclave::plan
