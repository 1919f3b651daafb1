#include "server/chat_api.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string_view>

#include "server/json_reader.h"

namespace conclave::server {
namespace {

constexpr std::int64_t kChoicesMax = 16;
constexpr std::size_t kStopsMax = 16;
constexpr std::size_t kStopSizeMax = 512;
constexpr std::size_t kBiasesMax = 1024;
constexpr std::size_t kToolsMax = 1024;
constexpr std::int64_t kMaxTokensMax = std::int64_t{1} << 40;

// --- messages ---------------------------------------------------------------------------------

void check_tool_calls(FieldReader& fields, const Json& message, const std::string& prefix) {
  const Json* calls = fields.array("tool_calls");
  if (calls == nullptr) return;
  for (std::size_t i = 0; i < calls->size(); ++i) {
    const std::string where = "tool_calls[" + std::to_string(i) + "]";
    const Json& call = (*calls)[i];
    if (!call.is_object()) return fields.fail(where, "expected an object");
    FieldReader reader(call, prefix + where + ".");
    const Json* function = reader.object("function");
    FieldReader inner(function == nullptr ? message : *function, prefix + where + ".function.");
    if (function == nullptr || inner.string("name").value_or("").empty()) {
      inner.fail("name", "expected the function's name");
    }
    if (reader.error()) fields.fail(*reader.error());
    if (inner.error()) fields.fail(*inner.error());
  }
}

// Roles and shapes beyond this are checked where the prompt is made.
void check_message(FieldReader& fields, const Json& message, const std::string& where) {
  constexpr std::array<std::string_view, 6> kRoles = {"system",    "developer", "user",
                                                      "assistant", "tool",      "function"};
  if (!message.is_object()) return fields.fail(where, "expected an object");
  FieldReader reader(message, where + ".");
  const std::string role = reader.string("role").value_or("");
  if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end()) {
    reader.fail("role", "expected system, developer, user, assistant, tool or function, found \"" +
                            role + "\"");
  }
  check_tool_calls(reader, message, where + ".");
  const Json* content = reader.find("content");
  if (content == nullptr && role != "assistant") {
    reader.fail("content",
                "expected a string or an array of parts; only an assistant may have none");
  }
  if (content != nullptr && !content->is_string() && !content->is_array()) {
    reader.fail("content", "expected a string or an array of parts, found " + excerpt(*content));
  }
  if (content != nullptr && content->is_array()) {
    for (std::size_t i = 0; i < content->size(); ++i) {
      const Json& part = (*content)[i];
      const std::string name = "content[" + std::to_string(i) + "]";
      if (!part.is_object()) {
        reader.fail(name, "expected an object");
        continue;
      }
      FieldReader part_reader(part, where + "." + name + ".");
      const std::string type = part_reader.string("type").value_or("");
      if (type != "text") {
        part_reader.fail("type", "this model takes text only, found \"" + type + "\"");
      } else if (!part_reader.string("text")) {
        part_reader.fail("text", "expected a string");
      }
      if (part_reader.error()) reader.fail(*part_reader.error());
    }
  }
  if (reader.error()) fields.fail(*reader.error());
}

void read_messages(FieldReader& fields, GenerateRequest& request) {
  const Json* messages = fields.array("messages");
  if (messages == nullptr || messages->empty()) {
    return fields.fail("messages", "expected a non-empty array");
  }
  for (std::size_t i = 0; i < messages->size(); ++i) {
    check_message(fields, (*messages)[i], "messages[" + std::to_string(i) + "]");
  }
  request.prompt.messages = *messages;
}

// Options of the template, e.g. {"thinking": false}; `reasoning_effort` is offered to it too.
void read_template_options(FieldReader& fields, GenerateRequest& request) {
  Json& options = request.prompt.template_kwargs;
  if (const Json* given = fields.object("chat_template_kwargs")) options = *given;
  const auto effort = fields.string("reasoning_effort");
  if (!effort) return;
  if (!options.contains("reasoning_effort")) options["reasoning_effort"] = *effort;
  if (*effort != "none") return;
  for (const char* name : {"thinking", "enable_thinking"}) {
    if (!options.contains(name)) options[name] = false;
  }
}

// --- tools and formats ------------------------------------------------------------------------

// Tools of other types than "function" are skipped: clients send their own.
Json read_tools(FieldReader& fields) {
  Json functions = Json::array();
  const Json* tools = fields.array("tools");
  if (tools == nullptr) return functions;
  if (tools->size() > kToolsMax) {
    fields.fail("tools", "at most " + std::to_string(kToolsMax) + " tools, found " +
                             std::to_string(tools->size()));
  }
  for (std::size_t i = 0; i < tools->size(); ++i) {
    const std::string where = "tools[" + std::to_string(i) + "]";
    const Json& tool = (*tools)[i];
    if (!tool.is_object()) {
      fields.fail(where, "expected an object");
      continue;
    }
    FieldReader reader(tool, where + ".");
    if (reader.string("type").value_or("function") != "function") continue;
    const Json* function = reader.object("function");
    FieldReader inner(function == nullptr ? tool : *function, where + ".function.");
    if (function == nullptr || inner.string("name").value_or("").empty()) {
      inner.fail("name", "expected the function's name");
    }
    inner.object("parameters");
    if (inner.error()) {
      fields.fail(*inner.error());
    } else {
      functions.push_back(tool);
    }
  }
  return functions;
}

bool has_function(const Json& tools, const std::string& name) {
  return std::any_of(tools.begin(), tools.end(),
                     [&name](const Json& tool) { return tool["function"]["name"] == name; });
}

void read_named_tool(FieldReader& fields, const Json& choice, const Json& tools,
                     GenerateRequest& request) {
  FieldReader reader(choice, "tool_choice.");
  const std::string type = reader.string("type").value_or("");
  if (type != "function") {
    return fields.fail("tool_choice.type", "expected function, found \"" + type + "\"");
  }
  const Json* function = reader.object("function");
  FieldReader inner(function == nullptr ? choice : *function, "tool_choice.function.");
  request.tool_name = inner.string("name").value_or("");
  request.tool_required = true;
  if (!has_function(tools, request.tool_name)) {
    fields.fail("tool_choice.function.name",
                "no function of that name in tools: \"" + request.tool_name + "\"");
  }
}

void read_tool_choice(FieldReader& fields, GenerateRequest& request) {
  Json tools = read_tools(fields);
  request.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
  const Json* choice = fields.find("tool_choice");
  bool none = tools.empty();
  if (choice != nullptr && choice->is_object()) {
    read_named_tool(fields, *choice, tools, request);
  } else if (choice != nullptr) {
    const std::string text = choice->is_string() ? choice->get<std::string>() : "";
    if (text != "none" && text != "auto" && text != "required") {
      fields.fail("tool_choice",
                  "expected none, auto, required or a function, found " + excerpt(*choice));
    }
    none = none || text == "none";
    request.tool_required = text == "required";
    if (request.tool_required && tools.empty()) {
      fields.fail("tool_choice", "required, but tools has no function");
    }
  }
  if (!none) request.prompt.tools = std::move(tools);
}

void read_response_format(FieldReader& fields, GenerateRequest& request) {
  using Kind = text::GrammarSpec::Kind;
  const Json* format = fields.object("response_format");
  if (format == nullptr) return;
  FieldReader reader(*format, "response_format.");
  const std::string type = reader.string("type").value_or("");
  if (type == "text") return;
  if (type == "json_object") {
    // llama.cpp's older form carries the schema here.
    const Json* schema = reader.object("schema");
    request.format = schema == nullptr
                         ? text::GrammarSpec{.kind = Kind::kJsonObject, .source = {}}
                         : text::GrammarSpec{.kind = Kind::kJsonSchema, .source = dump(*schema)};
  } else if (type == "json_schema") {
    const Json* outer = reader.object("json_schema");
    const Json* schema = nullptr;
    if (outer != nullptr) schema = FieldReader(*outer).find("schema");
    if (schema == nullptr) {
      reader.fail("json_schema.schema", "expected a JSON schema");
    } else {
      request.format = text::GrammarSpec{.kind = Kind::kJsonSchema, .source = dump(*schema)};
    }
  } else {
    reader.fail("type", "expected text, json_object or json_schema, found \"" + type + "\"");
  }
  if (reader.error()) fields.fail(*reader.error());
}

// vLLM's fields. `field` names the one that `spec` came from.
void set_format(FieldReader& fields, const std::string& field, text::GrammarSpec spec,
                GenerateRequest& request) {
  if (request.format) return fields.fail(field, "excludes " + request.format_field);
  if (spec.source.empty()) return fields.fail(field, "expected a non-empty string");
  request.format = std::move(spec);
  request.format_field = field;
}

void read_guided(FieldReader& fields, GenerateRequest& request) {
  using Kind = text::GrammarSpec::Kind;
  if (const auto regex = fields.string("guided_regex")) {
    set_format(fields, "guided_regex", {.kind = Kind::kRegex, .source = *regex}, request);
  }
  if (const Json* schema = fields.object("guided_json")) {
    set_format(fields, "guided_json", {.kind = Kind::kJsonSchema, .source = dump(*schema)},
               request);
  }
  const Json* outputs = fields.object("structured_outputs");
  if (outputs == nullptr) return;
  FieldReader reader(*outputs, "structured_outputs.");
  const auto regex = reader.string("regex");
  const Json* schema = reader.object("json");
  if (reader.error()) return fields.fail(*reader.error());
  if (regex) {
    set_format(fields, "structured_outputs.regex", {.kind = Kind::kRegex, .source = *regex},
               request);
  }
  if (schema != nullptr) {
    set_format(fields, "structured_outputs.json",
               {.kind = Kind::kJsonSchema, .source = dump(*schema)}, request);
  }
  if (!regex && schema == nullptr) {
    fields.fail("structured_outputs", "expected regex or json, found " + excerpt(*outputs));
  }
}

// --- sampling ---------------------------------------------------------------------------------

std::optional<double> default_number(const Json& generation, const char* name) {
  const auto place = generation.find(name);
  if (place == generation.end() || !place->is_number()) return std::nullopt;
  return place->get<double>();
}

// The client's value, else the model's own default, else `otherwise`.
struct NumberField {
  const char* name;
  double least;
  double most;
  double otherwise;
};
float read_number(FieldReader& fields, const ChatDefaults& defaults, const NumberField& field) {
  if (fields.find(field.name) != nullptr) {
    const auto number = fields.number(field.name, field.least, field.most);
    return static_cast<float>(number.value_or(field.otherwise));
  }
  const double number = default_number(defaults.generation, field.name).value_or(field.otherwise);
  return static_cast<float>(std::clamp(number, field.least, field.most));
}

void read_sampling(FieldReader& fields, const ChatDefaults& defaults,
                   engine::SamplingParams& sampling) {
  sampling.temperature = read_number(fields, defaults, {"temperature", 0.0, 2.0, 1.0});
  sampling.top_p = read_number(fields, defaults, {"top_p", 0.0, 1.0, 1.0});
  sampling.min_p = read_number(fields, defaults, {"min_p", 0.0, 1.0, 0.0});
  const char* repetition =
      fields.find("repeat_penalty") != nullptr ? "repeat_penalty" : "repetition_penalty";
  sampling.repetition_penalty = read_number(fields, defaults, {repetition, 0.01, 10.0, 1.0});
  sampling.presence_penalty = read_number(fields, {}, {"presence_penalty", -2.0, 2.0, 0.0});
  sampling.frequency_penalty = read_number(fields, {}, {"frequency_penalty", -2.0, 2.0, 0.0});
  // -1 and 0 both say "off".
  const std::int64_t top_k =
      fields.integer("top_k", -1, std::numeric_limits<int>::max())
          .value_or(static_cast<std::int64_t>(
              std::clamp(default_number(defaults.generation, "top_k").value_or(0.0), 0.0, 1e6)));
  sampling.top_k = static_cast<int>(std::max<std::int64_t>(top_k, 0));
}

void read_logprobs(FieldReader& fields, engine::SamplingParams& sampling) {
  const bool wanted = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, 20);
  if (top && *top > 0 && !wanted) {
    fields.fail("top_logprobs", "needs \"logprobs\": true");
  }
  sampling.top_logprobs = wanted ? static_cast<int>(top.value_or(0)) : -1;
}

void read_logit_bias(FieldReader& fields, std::size_t vocab_size,
                     engine::SamplingParams& sampling) {
  const Json* biases = fields.object("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kBiasesMax) {
    return fields.fail("logit_bias", "at most " + std::to_string(kBiasesMax) + " entries");
  }
  for (const auto& [key, value] : biases->items()) {
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || id >= vocab_size) {
      return fields.fail("logit_bias", "expected token ids below " + std::to_string(vocab_size) +
                                           " as names, found " + excerpt(Json(key)));
    }
    const double bias = value.is_number() ? value.get<double>() : 1000.0;
    if (!(bias >= -100.0 && bias <= 100.0)) {
      return fields.fail("logit_bias", "expected numbers from -100 to 100, found " +
                                           excerpt(value) + " for token " + key);
    }
    sampling.logit_bias.emplace_back(TokenId{id}, static_cast<float>(bias));
  }
}

// --- length -----------------------------------------------------------------------------------

// The newer name wins. -1 says "no limit" (LM Studio's own example).
void read_max_tokens(FieldReader& fields, GenerateRequest& request) {
  for (const char* name : {"max_completion_tokens", "max_tokens"}) {
    const auto tokens = fields.integer(name, -1, kMaxTokensMax);
    if (tokens && *tokens == 0) fields.fail(name, "expected at least 1, or -1 for no limit");
    if (!tokens || request.max_tokens) continue;
    if (*tokens > 0) request.max_tokens = static_cast<std::size_t>(*tokens);
  }
}

void read_stop(FieldReader& fields, GenerateRequest& request) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  const Json list = stop->is_array() ? *stop : Json::array({*stop});
  if (list.size() > kStopsMax) {
    return fields.fail("stop", "at most " + std::to_string(kStopsMax) + " strings");
  }
  for (const Json& entry : list) {
    const std::string text = entry.is_string() ? entry.get<std::string>() : "";
    if (text.empty() || text.size() > kStopSizeMax) {
      return fields.fail("stop", "expected strings of 1 to " + std::to_string(kStopSizeMax) +
                                     " bytes, found " + excerpt(entry));
    }
    request.stop.push_back(text);
  }
}

void read_stream(FieldReader& fields, GenerateRequest& request) {
  request.stream = fields.boolean("stream").value_or(false);
  const Json* options = fields.object("stream_options");
  if (options == nullptr) return;
  FieldReader reader(*options, "stream_options.");
  request.include_usage = reader.boolean("include_usage").value_or(false);
  if (reader.error()) fields.fail(*reader.error());
}

}  // namespace

Parsed<GenerateRequest> parse_chat_request(const Json& body, const ChatDefaults& defaults) {
  GenerateRequest request;
  FieldReader fields(body);
  // Any name is taken: clients are set up with names of their own, and one model runs here.
  request.model = fields.string("model").value_or("");
  read_messages(fields, request);
  read_template_options(fields, request);
  read_tool_choice(fields, request);
  read_response_format(fields, request);
  read_guided(fields, request);
  read_sampling(fields, defaults, request.sampling);
  read_logprobs(fields, request.sampling);
  read_logit_bias(fields, defaults.vocab_size, request.sampling);
  read_max_tokens(fields, request);
  read_stop(fields, request);
  read_stream(fields, request);
  request.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  request.n = static_cast<std::size_t>(fields.integer("n", 1, kChoicesMax).value_or(1));
  const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min(),
                                   std::numeric_limits<std::int64_t>::max());
  if (seed) request.seed = static_cast<std::uint64_t>(*seed);
  if (request.format && request.tool_required) {
    fields.fail("tool_choice",
                "a required call and " + request.format_field + " exclude each other");
  }
  if (fields.error()) return *fields.error();
  return request;
}

}  // namespace conclave::server
