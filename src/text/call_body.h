// A whole tool call between <tool_call> and </tool_call>, as Qwen3, Qwen3-Coder and GLM write it.
// docs/models.md 7.5, 7.6.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "text/text.h"

namespace conclave::text {

// Which parameters of which tool hold text: in the tagged forms nothing else tells "1" from 1.
class ToolTypes {
 public:
  ToolTypes() = default;
  explicit ToolTypes(const Json& tools);  // OpenAI's array, or null

  bool has(std::string_view tool) const;
  // A value as it was written: text where the schema takes text (a bare null apart), or where
  // nothing else can be read.
  Json value(std::string_view tool, std::string_view parameter, std::string_view written) const;

 private:
  std::map<std::string, std::set<std::string, std::less<>>, std::less<>> text_parameters_;
};

struct CallBody {
  std::string name;
  std::string arguments;  // JSON
};

// Three forms; nullopt when `body` is none of them. A name alone must be that of a tool.
//   {"name": "f", "arguments": {"a": 1}}
//   <function=f><parameter=a>1</parameter></function>
//   f <arg_key>a</arg_key> <arg_value>1</arg_value>
std::optional<CallBody> parse_call_body(std::string_view body, const ToolTypes& types);

}  // namespace conclave::text
