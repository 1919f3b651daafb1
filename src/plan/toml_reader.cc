#include "plan/toml_reader.h"

// toml++ then returns a parse_result instead of throwing.
#define TOML_EXCEPTIONS 0
// Its assertions fail on text that is not TOML ("[[("), which it then reports as an error anyway.
#define TOML_ASSERT(condition) static_assert(true)
#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "plan/catalogue.h"

namespace conclave::plan {
namespace {

// The index after the string that starts at `begin`, or the end of what is there.
std::size_t after_string(std::string_view text, std::size_t begin) {
  const char quote = text[begin];
  const bool escapes = quote == '"';
  const std::string triple(3, quote);
  const bool many_lines = text.substr(begin, 3) == triple;
  for (std::size_t i = begin + (many_lines ? 3 : 1); i < text.size(); ++i) {
    if (escapes && text[i] == '\\') {
      ++i;
    } else if (many_lines && text.substr(i, 3) == triple) {
      i += 3;
      // Up to two quotes may stand before the closing three.
      for (int extra = 0; extra < 2 && i < text.size() && text[i] == quote; ++extra) ++i;
      return i;
    } else if (!many_lines && (text[i] == quote || text[i] == '\n')) {
      return i + 1;
    }
  }
  return text.size();
}

// Whether a [header] that starts at `begin` starts its name with what no name starts with. Where
// assertions are off, toml++ lets clang assume that there is no such text.
bool is_broken_header(std::string_view text, std::size_t begin) {
  std::size_t i = begin + (text.substr(begin, 2) == "[[" ? 2 : 1);
  while (i < text.size() && (text[i] == ' ' || text[i] == '\t')) ++i;
  if (i == text.size()) return false;
  const char c = text[i];
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  return !letter && std::string_view("_-\"']").find(c) == std::string_view::npos;
}

// Trees are destroyed by recursion, and a.b.c.d... nests without any bracket: text that nests too
// deeply must not reach the parser. Text that is not TOML gives some answer.
std::optional<std::string> refusal(std::string_view text) {
  std::string too_deep = "nested deeper than " + std::to_string(kTomlDepthMax);
  std::size_t depth = 0;
  std::size_t dots = 0;  // of one key
  bool line_start = true;
  for (std::size_t i = text.starts_with("\xef\xbb\xbf") ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' || c == '\'') {
      // Else toml++ may not take it for a string, and then for text that it cannot read.
      if (i > 0 && std::string_view(" \t\r\n=,[.{").find(text[i - 1]) == std::string_view::npos) {
        return "not TOML: a quote in the middle of something";
      }
      i = after_string(text, i) - 1;
    } else if (c == '#') {
      i = std::min(text.find('\n', i), text.size()) - 1;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      // Nor does TOML allow it. toml++ 3.3 reaches code that it calls unreachable on some of it.
      return "not TOML: only text in quotes and comments may have letters beyond ASCII";
    } else if (c == '[' || c == '{') {
      if (line_start && depth == 0 && c == '[' && is_broken_header(text, i)) {
        return "not TOML: a [header] without a name";
      }
      dots = 0;
      if (++depth > kTomlDepthMax) return too_deep;
    } else if (c == ']' || c == '}') {
      depth -= depth > 0 ? 1 : 0;
    } else if (c == '.') {
      if (++dots > kTomlDepthMax) return too_deep;
    } else if (c == '=' || c == ',' || c == '\n') {
      dots = 0;
    }
    line_start = c == '\n' || (line_start && (c == ' ' || c == '\t'));
  }
  return std::nullopt;
}

TomlNode copy_of(const toml::node& node) {
  TomlNode copy;
  copy.line = node.source().begin.line;
  if (const toml::table* table = node.as_table()) {
    copy.kind = TomlNode::Kind::kTable;
    for (const auto& [key, value] : *table) {
      copy.keys.emplace_back(key.str());
      copy.items.push_back(copy_of(value));
    }
  } else if (const toml::array* array = node.as_array()) {
    copy.kind = TomlNode::Kind::kArray;
    for (const toml::node& value : *array) copy.items.push_back(copy_of(value));
  } else if (const auto text = node.value_exact<std::string>()) {
    copy.kind = TomlNode::Kind::kText;
    copy.text = *text;
  } else if (const auto integer = node.value_exact<std::int64_t>()) {
    copy.kind = TomlNode::Kind::kInteger;
    copy.integer = *integer;
    copy.real = static_cast<double>(*integer);
  } else if (const auto real = node.value_exact<double>()) {
    copy.kind = TomlNode::Kind::kReal;
    copy.real = *real;
  } else if (const auto truth = node.value_exact<bool>()) {
    copy.kind = TomlNode::Kind::kBoolean;
    copy.truth = *truth;
  } else {
    copy.kind = TomlNode::Kind::kDate;
  }
  return copy;
}

// A value as a message shows it.
std::string shown(const TomlNode* node) {
  if (node == nullptr) return "missing";
  switch (node->kind) {
    case TomlNode::Kind::kText:
      return '"' + shown_text(node->text) + '"';
    case TomlNode::Kind::kInteger:
      return std::to_string(node->integer);
    case TomlNode::Kind::kReal:
      return number_text(node->real);
    case TomlNode::Kind::kBoolean:
      return node->truth ? "true" : "false";
    case TomlNode::Kind::kDate:
      return "a date or time";
    case TomlNode::Kind::kArray:
      return "an array";
    case TomlNode::Kind::kTable:
      return "a table";
  }
  return "";
}

bool is_number(const TomlNode& node) {
  return node.kind == TomlNode::Kind::kInteger || node.kind == TomlNode::Kind::kReal;
}

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

bool is_one_line(const TomlNode& node) {
  return node.kind == TomlNode::Kind::kText && !node.text.empty() && node.text.size() <= kTextMax &&
         std::ranges::none_of(node.text, is_control);
}

std::string place(std::string_view label, std::size_t line) {
  std::string text(label);
  if (line != 0) text += ": line " + std::to_string(line);
  return text + ": ";
}

}  // namespace

std::string shown_text(std::string_view text) {
  constexpr std::size_t kShownMax = 80;
  std::size_t length = std::min(text.size(), kShownMax);
  // Not in the middle of a UTF-8 character.
  while (length < text.size() && length > 0 && (text[length] & 0xc0) == 0x80) --length;
  std::string shown(text.substr(0, length));
  std::ranges::replace_if(shown, is_control, '?');
  if (length < text.size()) shown += "...";
  return shown;
}

std::string number_text(double value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  return {digits.data(), end};
}

Result<TomlNode> parse_toml(std::string_view text, std::string_view label) {
  if (text.size() > kCatalogueBytesMax) {
    return invalid_input(std::string(label) + ": " + std::to_string(text.size()) +
                         " bytes, at most " + std::to_string(kCatalogueBytesMax));
  }
  if (const auto reason = refusal(text)) {
    return invalid_input(std::string(label) + ": " + *reason);
  }
  const toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    std::string reason(error.description());
    std::ranges::replace_if(reason, is_control, ' ');
    return invalid_input(place(label, error.source().begin.line) + "not TOML: " + reason);
  }
  return copy_of(parsed.table());
}

TomlTable::TomlTable(std::string_view label, std::string path, const TomlNode& node)
    : label_(label), path_(std::move(path)), node_(&node) {
  CHECK(node.kind == TomlNode::Kind::kTable);
}

const TomlNode* TomlTable::find(std::string_view key) const {
  const auto found = std::ranges::find(node_->keys, key);
  if (found == node_->keys.end()) return nullptr;
  return &node_->items[static_cast<std::size_t>(found - node_->keys.begin())];
}

std::string TomlTable::path_of(std::string_view key) const {
  const std::string name = shown_text(key);
  return path_.empty() ? name : path_ + "." + name;
}

Error TomlTable::wrong(std::string_view key, std::string_view expected) const {
  const TomlNode* node = find(key);
  const std::size_t line = node == nullptr ? node_->line : node->line;
  return invalid_input(place(label_, line) + path_of(key) + ": " + shown(node) + ", expected " +
                       std::string(expected));
}

Error TomlTable::wrong_table(std::string_view message) const {
  const std::string where = path_.empty() ? "" : path_ + ": ";
  return invalid_input(place(label_, node_->line) + where + std::string(message));
}

Result<void> TomlTable::expect_only(std::span<const std::string_view> known) const {
  for (std::size_t i = 0; i < node_->keys.size(); ++i) {
    if (std::ranges::find(known, node_->keys[i]) != known.end()) continue;
    std::string names;
    for (const std::string_view name : known) {
      if (!names.empty()) names += ", ";
      names += name;
    }
    return invalid_input(place(label_, node_->items[i].line) + path_of(node_->keys[i]) +
                         ": no such key, known here: " + names);
  }
  return {};
}

Result<double> TomlTable::number(std::string_view key, NumberLimits limits) const {
  const TomlNode* node = find(key);
  // Not a number fails both comparisons.
  if (node != nullptr && is_number(*node) && node->real >= limits.min && node->real <= limits.max) {
    return node->real;
  }
  return wrong(key, "a number from " + number_text(limits.min) + " to " + number_text(limits.max));
}

Result<double> TomlTable::number_or(std::string_view key, double otherwise,
                                    NumberLimits limits) const {
  if (!has(key)) return otherwise;
  return number(key, limits);
}

Result<std::size_t> TomlTable::count(std::string_view key, CountLimits limits) const {
  const TomlNode* node = find(key);
  if (node != nullptr && node->kind == TomlNode::Kind::kInteger && node->integer >= 0) {
    const auto value = static_cast<std::size_t>(node->integer);
    if (value >= limits.min && value <= limits.max) return value;
  }
  return wrong(key, "a whole number from " + std::to_string(limits.min) + " to " +
                        std::to_string(limits.max));
}

Result<std::size_t> TomlTable::count_or(std::string_view key, std::size_t otherwise,
                                        CountLimits limits) const {
  if (!has(key)) return otherwise;
  return count(key, limits);
}

Result<bool> TomlTable::flag_or(std::string_view key, bool otherwise) const {
  const TomlNode* node = find(key);
  if (node == nullptr) return otherwise;
  if (node->kind != TomlNode::Kind::kBoolean) return wrong(key, "true or false");
  return node->truth;
}

Result<std::string> TomlTable::text(std::string_view key) const {
  const TomlNode* node = find(key);
  if (node == nullptr || !is_one_line(*node)) {
    return wrong(key, "one line of text, at most " + std::to_string(kTextMax) + " bytes");
  }
  return node->text;
}

Result<std::string> TomlTable::text_or(std::string_view key, std::string_view otherwise) const {
  if (!has(key)) return std::string(otherwise);
  return text(key);
}

Result<std::vector<std::string>> TomlTable::texts(std::string_view key) const {
  const TomlNode* node = find(key);
  if (node == nullptr || node->kind != TomlNode::Kind::kArray ||
      !std::ranges::all_of(node->items, is_one_line)) {
    return wrong(key, "an array of texts");
  }
  std::vector<std::string> texts;
  for (const TomlNode& item : node->items) texts.push_back(item.text);
  return texts;
}

Result<TomlTable> TomlTable::table(std::string_view key) const {
  const TomlNode* node = find(key);
  if (node == nullptr || node->kind != TomlNode::Kind::kTable) return wrong(key, "a table");
  return TomlTable(label_, path_of(key), *node);
}

Result<std::optional<TomlTable>> TomlTable::table_if_any(std::string_view key) const {
  if (!has(key)) return std::optional<TomlTable>();
  return std::optional<TomlTable>(TRY(table(key)));
}

Result<std::vector<TomlTable>> TomlTable::tables(std::string_view key) const {
  std::vector<TomlTable> found;
  const TomlNode* node = find(key);
  if (node == nullptr) return found;
  if (node->kind == TomlNode::Kind::kTable) {
    found.emplace_back(label_, path_of(key), *node);
    return found;
  }
  const auto is_table = [](const TomlNode& item) { return item.kind == TomlNode::Kind::kTable; };
  if (node->kind != TomlNode::Kind::kArray || !std::ranges::all_of(node->items, is_table)) {
    return wrong(key, "tables, each headed [[" + std::string(key) + "]]");
  }
  for (std::size_t i = 0; i < node->items.size(); ++i) {
    found.emplace_back(label_, path_of(key) + "[" + std::to_string(i) + "]", node->items[i]);
  }
  return found;
}

}  // namespace conclave::plan
