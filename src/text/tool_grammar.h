// The grammar of tool calls in a model's own syntax, for tool_choice.
#pragma once

#include <optional>
#include <string_view>

#include "text/output_state.h"
#include "text/text.h"

namespace conclave::text {

struct ToolGrammarOptions {
  std::string_view function_name;  // empty: any of the tools
  bool parallel = false;           // several calls may follow each other
  bool fenced = false;             // DeepSeek-V3's form, not V3.1's
  bool json_body = true;           // tagged calls hold one JSON object
};

// A Lark grammar in llguidance's dialect. nullopt when the vocabulary has no call syntax, or no
// tool fits.
std::optional<GrammarSpec> tool_call_grammar(const MarkTable& marks, const Json& tools,
                                             const ToolGrammarOptions& options);

}  // namespace conclave::text
