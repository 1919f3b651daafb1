// Checked reading of untrusted TOML: every error names file, line, key, found and expected.
//
//   const TomlNode root = TRY(parse_toml(text, "machines.toml"));
//   const TomlTable file("machines.toml", "", root);
//   TRY(file.expect_only({"machine"}));
//   for (const TomlTable& machine : TRY(file.tables("machine"))) ...
//
// Limits: kCatalogueBytesMax of text, kTomlDepthMax brackets or dots deep. A TomlTable refers to
// its label and node, which must outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace conclave::plan {

// A copy of the parsed tree, so that the parser's headers, which take seconds to compile, are
// needed in one file only.
struct TomlNode {
  enum class Kind : std::uint8_t { kText, kInteger, kReal, kBoolean, kDate, kArray, kTable };
  Kind kind = Kind::kTable;
  std::size_t line = 0;  // from 1; 0: unknown
  bool truth = false;
  std::int64_t integer = 0;
  double real = 0.0;
  std::string text;
  std::vector<TomlNode> items;    // of an array or a table
  std::vector<std::string> keys;  // of a table: keys[i] names items[i]
};
inline constexpr std::size_t kTomlDepthMax = 16;

Result<TomlNode> parse_toml(std::string_view text, std::string_view label);

struct NumberLimits {
  double min = 0.0;
  double max = 0.0;
};
struct CountLimits {
  std::size_t min = 0;
  std::size_t max = 0;
};

class TomlTable {
 public:
  // `path` is "" at the top, else as in "machine[2].source"; `node` is a table.
  TomlTable(std::string_view label, std::string path, const TomlNode& node);

  const TomlNode* find(std::string_view key) const;  // nullptr when absent
  bool has(std::string_view key) const { return find(key) != nullptr; }
  const TomlNode& node() const { return *node_; }
  const std::string& path() const { return path_; }

  // An error on the first key that is not in `known`; it lists them.
  Result<void> expect_only(std::span<const std::string_view> known) const;
  Result<void> expect_only(std::initializer_list<std::string_view> known) const {
    return expect_only(std::span(known.begin(), known.size()));
  }

  Result<double> number(std::string_view key, NumberLimits limits) const;
  Result<double> number_or(std::string_view key, double otherwise, NumberLimits limits) const;
  Result<std::size_t> count(std::string_view key, CountLimits limits) const;
  Result<std::size_t> count_or(std::string_view key, std::size_t otherwise,
                               CountLimits limits) const;
  Result<bool> flag_or(std::string_view key, bool otherwise) const;
  // One line without control characters, 1 to kTextMax bytes.
  Result<std::string> text(std::string_view key) const;
  Result<std::string> text_or(std::string_view key, std::string_view otherwise) const;
  Result<std::vector<std::string>> texts(std::string_view key) const;
  Result<TomlTable> table(std::string_view key) const;
  Result<std::optional<TomlTable>> table_if_any(std::string_view key) const;
  // The tables [[key]]; one [key] counts as an array of one; none when absent.
  Result<std::vector<TomlTable>> tables(std::string_view key) const;

  // "f.toml: line 3: machine[2].memory_gb: -1, expected ..." for checks of the caller's own.
  Error wrong(std::string_view key, std::string_view expected) const;
  // "f.toml: line 1: machine[2]: message".
  Error wrong_table(std::string_view message) const;

 private:
  std::string path_of(std::string_view key) const;

  std::string_view label_;
  std::string path_;
  const TomlNode* node_;
};
inline constexpr std::size_t kTextMax = 1000;

// Text of a person's as one line of a message: escaped and cut.
std::string shown_text(std::string_view text);
// The shortest digits that read back as `value`.
std::string number_text(double value);

}  // namespace conclave::plan
