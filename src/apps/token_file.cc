#include "apps/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "base/mapped_file.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kIdsBytesMax = std::size_t{64} << 20;
constexpr std::size_t kExpertsBytesMax = std::size_t{512} << 20;

Result<Json> parse_array(std::string_view text, std::string_view label) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return invalid_input(fmt::format("{}: not valid JSON", label));
  if (!json.is_array()) {
    return invalid_input(fmt::format("{}: found {}, expected an array", label, json.type_name()));
  }
  return json;
}

// A whole number below `limit`; nullopt for anything else.
std::optional<std::uint64_t> index_below(const Json& value, std::uint64_t limit) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (number >= limit) return std::nullopt;
  return number;
}

Result<void> expect_length(const Json& value, std::size_t length, const std::string& where,
                           std::string_view of) {
  if (value.is_array() && value.size() == length) return {};
  return invalid_input(fmt::format(
      "{}: found {}, expected an array of {} {}", where,
      value.is_array() ? fmt::format("{} elements", value.size()) : value.type_name(), length, of));
}

// Appends the experts of one layer, ascending.
Result<void> append_layer(const Json& layer, const std::string& where,
                          const model::ModelConfig& config, std::vector<ExpertId>& experts) {
  TRY(expect_length(layer, config.experts_per_token, where, "expert ids"));
  const std::size_t begin = experts.size();
  for (const Json& value : layer) {
    const auto id = index_below(value, config.n_experts);
    if (!id) {
      return invalid_input(fmt::format("{}: found {}, expected an expert id below {}", where,
                                       value.dump(), config.n_experts));
    }
    experts.push_back(ExpertId{static_cast<std::uint16_t>(*id)});
  }
  const std::span<ExpertId> added(experts.data() + begin, experts.size() - begin);
  std::sort(added.begin(), added.end());
  if (std::adjacent_find(added.begin(), added.end()) != added.end()) {
    return invalid_input(fmt::format("{}: an expert is named twice: name {} different ones", where,
                                     config.experts_per_token));
  }
  return {};
}

}  // namespace

Result<std::vector<TokenId>> parse_token_ids(std::string_view json, std::string_view label,
                                             std::size_t vocab_size) {
  const Json array = TRY(parse_array(json, label));
  if (array.empty()) return invalid_input(fmt::format("{}: no ids: give at least one", label));
  std::vector<TokenId> ids;
  ids.reserve(array.size());
  for (const Json& value : array) {
    const auto id = index_below(value, vocab_size);
    if (!id) {
      return invalid_input(fmt::format("{}: element {}: found {}, expected a token id below {}",
                                       label, ids.size(), value.dump().substr(0, 40), vocab_size));
    }
    ids.push_back(TokenId{static_cast<std::uint32_t>(*id)});
  }
  return ids;
}

Result<std::vector<TokenId>> read_token_ids(const std::filesystem::path& path,
                                            std::size_t vocab_size) {
  const std::string text = TRY(read_text_file(path, kIdsBytesMax));
  return parse_token_ids(text, path.string(), vocab_size);
}

Result<std::vector<ExpertId>> parse_experts(std::string_view json, std::string_view label,
                                            const model::ModelConfig& config,
                                            std::size_t n_positions) {
  const Json array = TRY(parse_array(json, label));
  TRY(expect_length(array, n_positions, std::string(label), "positions, one for each id"));
  const std::size_t n_layers = config.n_moe_layers();
  std::vector<ExpertId> experts;
  experts.reserve(n_positions * n_layers * config.experts_per_token);
  for (std::size_t position = 0; position < n_positions; ++position) {
    const std::string where = fmt::format("{}: position {}", label, position);
    TRY(expect_length(array[position], n_layers, where, "MoE layers"));
    for (std::size_t layer = 0; layer < n_layers; ++layer) {
      TRY(append_layer(array[position][layer], fmt::format("{}, MoE layer {}", where, layer),
                       config, experts));
    }
  }
  return experts;
}

Result<std::vector<ExpertId>> read_experts(const std::filesystem::path& path,
                                           const model::ModelConfig& config,
                                           std::size_t n_positions) {
  const std::string text = TRY(read_text_file(path, kExpertsBytesMax));
  return parse_experts(text, path.string(), config, n_positions);
}

}  // namespace conclave::apps
