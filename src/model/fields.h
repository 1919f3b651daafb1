// Checked reading of an untrusted JSON object: every error names file, field, found and expected.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace conclave::model {

inline constexpr std::size_t kConfigBytesMax = std::size_t{16} << 20;
inline constexpr std::size_t kConfigDepthMax = 32;

struct CountLimits {
  std::size_t min = 0;
  std::size_t max = 0;
};
struct NumberLimits {
  double min = 0.0;
  double max = 0.0;
};

struct JsonObject {
  nlohmann::json root;
};
// An object without doubled keys, within the limits above.
Result<JsonObject> parse_json_object(std::string_view text, std::string_view label);

// One JSON object, or two of which the first wins (`text_config`, then the top level). The objects
// must outlive this. A field that is `null` counts as absent.
class Fields {
 public:
  // `where` is "config.json" or "config.json: rope_scaling".
  Fields(std::string where, const nlohmann::json& first, const nlohmann::json* second = nullptr)
      : where_(std::move(where)), first_(&first), second_(second) {}

  const nlohmann::json* find(std::string_view field) const;  // nullptr when absent

  Result<std::size_t> count(std::string_view field, CountLimits limits) const;
  Result<std::size_t> count_or(std::string_view field, std::size_t otherwise,
                               CountLimits limits) const;
  Result<double> number(std::string_view field, NumberLimits limits) const;
  Result<double> number_or(std::string_view field, double otherwise, NumberLimits limits) const;
  Result<bool> flag(std::string_view field) const;
  Result<bool> flag_or(std::string_view field, bool otherwise) const;
  Result<std::string> text(std::string_view field) const;
  Result<std::string> text_or(std::string_view field, std::string_view otherwise) const;
  Result<std::optional<Fields>> object(std::string_view field) const;

  // kUnsupported unless the field is `wanted`; `expect_if_present` also takes an absent one.
  Result<void> expect(std::string_view field, const nlohmann::json& wanted) const;
  Result<void> expect_if_present(std::string_view field, const nlohmann::json& wanted) const;
  // kUnsupported when a field outside `known` is there and not null.
  Result<void> expect_only(std::initializer_list<std::string_view> known) const;

  // "config.json: hidden_size: 3, expected ..." for checks of the caller's own.
  Error invalid(std::string_view field, const std::string& expected) const;
  Error not_supported(std::string_view field, const std::string& expected) const;
  const std::string& where() const { return where_; }
  const nlohmann::json& first() const { return *first_; }

 private:
  std::string path(std::string_view field) const;
  std::string message(std::string_view field, const std::string& expected) const;

  std::string where_;
  const nlohmann::json* first_;
  const nlohmann::json* second_;
};

}  // namespace conclave::model
