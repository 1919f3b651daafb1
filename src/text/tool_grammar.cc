#include "text/tool_grammar.h"

#include <string>
#include <vector>

#include "text/json_util.h"

namespace conclave::text {
namespace {

// llguidance takes a token by number, so no name needs escaping.
std::string token(const MarkTable& marks, Mark mark) {
  return "<[" + std::to_string(marks.id(mark)->value) + "]>";
}

std::string literal(std::string_view text) { return json_text(Json(std::string(text))); }

// Clients' schemas use keywords of every draft: those that cannot be enforced are skipped.
Json arguments_schema(const Json& function) {
  const Json* parameters = member(function, "parameters");
  Json schema = parameters != nullptr && parameters->is_object() ? *parameters : Json::object();
  if (schema.empty()) schema["type"] = "object";
  schema["x-guidance"] = {{"lenient", true},
                          {"whitespace_flexible", false},
                          {"item_separator", ", "},
                          {"key_separator", ": "}};
  return schema;
}

std::string call_rule(const MarkTable& marks, const std::string& name, const std::string& arguments,
                      bool fenced) {
  const std::string begin = token(marks, Mark::kCallBegin) + " ";
  const std::string end = " " + token(marks, Mark::kCallEnd);
  if (marks.form == CallForm::kTagged) {
    const std::string head = "\n{\"name\": " + json_text(Json(name)) + ", \"arguments\": ";
    return begin + literal(head) + " " + arguments + " " + literal("}\n") + end;
  }
  const std::string middle = " " + token(marks, Mark::kHeaderEnd) + " ";
  if (marks.form == CallForm::kKimi) {
    return begin + literal("functions." + name + ":") + " /0|[1-9][0-9]{0,3}/" + middle +
           arguments + end;
  }
  if (!fenced) return begin + literal(name) + middle + arguments + end;
  return begin + literal("function") + middle + literal(name + "\n```json\n") + " " + arguments +
         " " + literal("\n```") + end;
}

}  // namespace

std::optional<GrammarSpec> tool_call_grammar(const MarkTable& marks, const Json& tools,
                                             const ToolGrammarOptions& options) {
  if (marks.form == CallForm::kNone) return std::nullopt;
  const bool tagged = marks.form == CallForm::kTagged;
  if (tagged && !options.json_body) return std::nullopt;
  if (!tagged && (!marks.id(Mark::kSectionBegin) || !marks.id(Mark::kSectionEnd))) {
    return std::nullopt;
  }
  std::string rules;
  std::string choices;
  std::size_t n_functions = 0;
  for (const Json& tool : tools) {
    const Json* function = member(tool, "function");
    if (function == nullptr) continue;
    const std::string name = string_member(*function, "name");
    if (name.empty()) continue;
    if (!options.function_name.empty() && name != options.function_name) continue;
    const std::string index = std::to_string(n_functions++);
    choices += (choices.empty() ? "call" : " | call") + index;
    rules += "call" + index + ": " + call_rule(marks, name, "arguments" + index, options.fenced) +
             "\narguments" + index + ": %json " + json_text(arguments_schema(*function)) + "\n";
  }
  if (n_functions == 0) return std::nullopt;
  const std::string separator = marks.form == CallForm::kKimi ? "" : "\"\\n\" ";
  const std::string more = options.parallel ? " (" + separator + "call)*" : "";
  const std::string section = tagged ? "call" + more
                                     : token(marks, Mark::kSectionBegin) + " call" + more + " " +
                                           token(marks, Mark::kSectionEnd);
  return GrammarSpec{.kind = GrammarSpec::Kind::kLark,
                     .source = "start: " + section + "\ncall: " + choices + "\n" + rules};
}

}  // namespace conclave::text
