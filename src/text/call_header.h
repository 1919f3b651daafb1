// The line before a tool call's arguments: what was called, under which id.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace conclave::text {

struct CallHeader {
  std::string id;
  std::string name;
};

// Kimi: "functions.NAME:IDX", white space and newlines around it allowed, "functions." sometimes
// missing. Where the form is another, the whole text is the name and the id counts `call_number`,
// the calls before this one in the conversation.
CallHeader parse_kimi_header(std::string_view text, std::size_t call_number);

// DeepSeek-V3 writes `function SEP NAME newline ```json newline ARGS newline ```; from V3.1 on it
// is `NAME SEP ARGS`. `text` is what followed SEP after "function".
struct FenceHeader {
  std::string name;        // empty: no such header, "function" itself is the name
  std::size_t args_begin;  // where the arguments start in `text`
  bool fenced = false;     // and ``` ends them
};

// nullopt: more text is needed. `last`: no more will come.
std::optional<FenceHeader> parse_fence_header(std::string_view text, bool last);

std::string_view trimmed(std::string_view text);

}  // namespace conclave::text
