#include "text/checkpoint_text.h"

#include <array>
#include <cctype>
#include <charconv>
#include <limits>
#include <string_view>
#include <system_error>

#include "base/mapped_file.h"
#include "text/gguf_text.h"

namespace conclave::text {
namespace {

constexpr std::size_t kConfigBytesMax = 16u << 20;

std::optional<std::uint32_t> as_id(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (number > std::numeric_limits<std::uint32_t>::max()) return std::nullopt;
  return static_cast<std::uint32_t>(number);
}

// `eos_token_id` is a number, a list, or null.
void add_stop_ids(const Json& config, std::vector<std::uint32_t>& ids) {
  const Json* value = member(config, "eos_token_id");
  if (value == nullptr) return;
  if (const auto id = as_id(*value)) ids.push_back(*id);
  if (!value->is_array()) return;
  for (const Json& item : *value) {
    if (const auto id = as_id(item)) ids.push_back(*id);
  }
}

// "kimi_k25" and "KimiK25ForConditionalGeneration", also with a later digit; not "kimi_k2".
bool names_kimi_k2_5(std::string_view name, std::string_view prefix) {
  return name.starts_with(prefix) && name.size() > prefix.size() &&
         std::isdigit(static_cast<unsigned char>(name[prefix.size()])) != 0;
}

bool is_kimi_k2_5(const Json& config) {
  if (names_kimi_k2_5(string_member(config, "model_type"), "kimi_k2")) return true;
  const Json* architectures = member(config, "architectures");
  if (architectures == nullptr || !architectures->is_array()) return false;
  for (const Json& name : *architectures) {
    if (name.is_string() && names_kimi_k2_5(name.get_ref<const std::string&>(), "KimiK2")) {
      return true;
    }
  }
  return false;
}

Result<void> read_added_tokens(const Json& config, const std::string& file, CheckpointText& out) {
  const Json* tokens = member(config, "added_tokens_decoder");
  if (tokens == nullptr) return {};
  if (!tokens->is_object()) {
    return invalid_input(file + ": added_tokens_decoder: expected an object");
  }
  for (const auto& [key, token] : tokens->items()) {
    std::uint32_t id = 0;
    const char* const end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, id);
    const std::string content = string_member(token, "content");
    if (parsed.ec != std::errc{} || parsed.ptr != end || content.empty()) {
      return invalid_input(file + ": added_tokens_decoder[" + key +
                           "]: expected a number as key and a `content`");
    }
    const Json* special = member(token, "special");
    const bool hidden = special != nullptr && special->is_boolean() && special->get<bool>();
    out.added_tokens[id] = {content, hidden};
  }
  return {};
}

void read_named_tokens(const Json& config, CheckpointText& out) {
  static constexpr std::array<std::string_view, 7> kNames{
      "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"};
  for (const std::string_view name : kNames) {
    const Json* value = member(config, name);
    if (value == nullptr) continue;
    const std::string content =
        value->is_string() ? value->get<std::string>() : string_member(*value, "content");
    if (!content.empty()) out.named_tokens[std::string(name)] = content;
  }
}

// A string, or a list of {name, template} of which "default" counts.
std::optional<std::string> template_in(const Json& config) {
  const Json* value = member(config, "chat_template");
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) return std::nullopt;
  for (const Json& entry : *value) {
    if (string_member(entry, "name") == "default") return string_member(entry, "template");
  }
  return std::nullopt;
}

// The separate file wins, as in transformers.
Result<std::optional<std::string>> read_template(const std::filesystem::path& dir,
                                                 const Json& tokenizer_config) {
  std::error_code error;
  const std::filesystem::path file = dir / "chat_template.jinja";
  if (std::filesystem::exists(file, error)) {
    return std::optional<std::string>(TRY(read_text_file(file, kTemplateBytesMax)));
  }
  const Json old_file = TRY(read_json_file(dir / "chat_template.json", kConfigBytesMax));
  if (auto source = template_in(old_file)) return source;
  return template_in(tokenizer_config);
}

}  // namespace

Result<CheckpointText> read_checkpoint_text(const std::filesystem::path& dir) {
  if (const auto gguf = TRY(formats::open_gguf(dir))) return checkpoint_text_from_gguf(*gguf);
  CheckpointText out;
  const std::filesystem::path tokenizer_file = dir / "tokenizer_config.json";
  const Json tokenizer = TRY(read_json_file(tokenizer_file, kConfigBytesMax));
  const Json model = TRY(read_json_file(dir / "config.json", kConfigBytesMax));
  out.generation_defaults = TRY(read_json_file(dir / "generation_config.json", kConfigBytesMax));
  TRY(read_added_tokens(tokenizer, tokenizer_file.string(), out));
  read_named_tokens(tokenizer, out);
  out.chat_template = TRY(read_template(dir, tokenizer));
  add_stop_ids(out.generation_defaults, out.stop_ids);
  add_stop_ids(model, out.stop_ids);
  if (const Json* nested = member(model, "text_config")) add_stop_ids(*nested, out.stop_ids);
  out.typescript_tools = is_kimi_k2_5(model);
  return out;
}

}  // namespace conclave::text
