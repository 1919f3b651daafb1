#include "formats/index.h"

#include <simdjson.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "formats/dtype.h"

namespace conclave::formats {
namespace {

namespace dom = simdjson::dom;

// A shard lies beside the index: a path could reach any file of the machine.
bool is_plain_file_name(std::string_view file) {
  constexpr std::string_view kSuffix = ".safetensors";
  return file.size() > kSuffix.size() && file.size() <= 255 && file.ends_with(kSuffix) &&
         file.front() != '.' && file.find_first_of(std::string_view("/\\\0", 3)) == file.npos;
}

Result<dom::object> find_weight_map(const dom::object& root, const std::string& label) {
  std::size_t n_found = 0;
  dom::object map;
  for (const dom::key_value_pair entry : root) {
    if (entry.key != "weight_map") continue;
    ++n_found;
    if (entry.value.get(map) != simdjson::SUCCESS) {
      return corrupt(label + ": weight_map: expected an object");
    }
  }
  if (n_found != 1) {
    return corrupt(label + ": weight_map: found " + std::to_string(n_found) + " times, expected 1");
  }
  return map;
}

// Shards are numbered as they are met; then they are sorted and renumbered.
void sort_shards(ShardIndex& index) {
  std::vector<std::pair<std::string, std::uint32_t>> order;
  for (std::size_t i = 0; i < index.shards.size(); ++i) {
    order.emplace_back(std::move(index.shards[i]), static_cast<std::uint32_t>(i));
  }
  std::ranges::sort(order);
  std::vector<std::uint32_t> place(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    index.shards[i] = std::move(order[i].first);
    place[order[i].second] = static_cast<std::uint32_t>(i);
  }
  for (IndexEntry& entry : index.entries) entry.shard = place[entry.shard];
}

}  // namespace

Result<ShardIndex> parse_index(std::span<const std::byte> json, std::string_view label_text) {
  const std::string label(label_text);
  if (json.size() > kIndexBytesMax) {
    return invalid_input(label + ": " + std::to_string(json.size()) + " bytes, limit " +
                         std::to_string(kIndexBytesMax));
  }
  dom::parser parser(kIndexBytesMax);
  dom::object root;
  const simdjson::error_code error =
      parser.parse(reinterpret_cast<const char*>(json.data()), json.size(), true).get(root);
  if (error != simdjson::SUCCESS) {
    return corrupt(label + ": not a JSON object: " + simdjson::error_message(error));
  }
  const dom::object weight_map = TRY(find_weight_map(root, label));

  ShardIndex index;
  std::unordered_map<std::string_view, std::uint32_t> numbers;
  for (const dom::key_value_pair entry : weight_map) {
    const std::string where = label + ": " + printable(entry.key) + ": ";
    std::string_view file;
    if (entry.value.get(file) != simdjson::SUCCESS) return corrupt(where + "expected a file name");
    if (!is_plain_file_name(file)) {
      return corrupt(where + "file \"" + printable(file) +
                     "\", expected a plain *.safetensors name");
    }
    if (entry.key.empty() || entry.key.size() > kNameBytesMax) {
      return corrupt(where + "name of " + std::to_string(entry.key.size()) +
                     " bytes, expected 1 to " + std::to_string(kNameBytesMax));
    }
    if (index.entries.size() == kTensorsMax) {
      return corrupt(label + ": more than " + std::to_string(kTensorsMax) + " tensors");
    }
    const auto number = static_cast<std::uint32_t>(index.shards.size());
    const auto [known, is_new] = numbers.emplace(file, number);
    if (is_new) index.shards.emplace_back(file);
    if (index.shards.size() > kShardsMax) {
      return corrupt(label + ": more than " + std::to_string(kShardsMax) + " shards");
    }
    index.entries.push_back({std::string(entry.key), known->second});
  }
  if (index.entries.empty()) return corrupt(label + ": weight_map: empty");

  sort_shards(index);
  std::ranges::sort(index.entries, {}, &IndexEntry::tensor);
  const auto twice = std::ranges::adjacent_find(index.entries, {}, &IndexEntry::tensor);
  if (twice != index.entries.end()) {
    return corrupt(label + ": " + printable(twice->tensor) + ": named twice");
  }
  return index;
}

}  // namespace conclave::formats
