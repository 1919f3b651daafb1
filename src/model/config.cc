#include <algorithm>
#include <utility>

#include "base/mapped_file.h"
#include "formats/formats.h"
#include "model/family.h"
#include "model/gguf_config.h"
#include "model/model.h"

namespace conclave::model {
namespace {

using nlohmann::json;

constexpr CountLimits kVocabulary{1, std::size_t{1} << 24};
constexpr CountLimits kLayers{1, 1024};
constexpr CountLimits kHeads{1, 4096};
constexpr CountLimits kPositions{1, std::size_t{1} << 30};

// Whether the outermost `model_type` is one of this family.
bool has_type(const Family& family, const json& type) {
  if (!family.outer_model_type.empty()) return type == json(family.outer_model_type);
  return std::ranges::any_of(family.model_types,
                             [&type](std::string_view known) { return type == json(known); });
}

Result<const Family*> find_family(const Fields& top) {
  std::string supported = "one of";
  for (const Family& family : families()) supported += " " + std::string(family.architecture);
  const json* names = top.find("architectures");
  const json* type = top.find("model_type");
  if (names == nullptr && type != nullptr) {
    const auto family = std::ranges::find_if(
        families(), [type](const Family& known) { return has_type(known, *type); });
    if (family != families().end()) return &*family;
  }
  if (names == nullptr || !names->is_array() || names->size() != 1 || !names->front().is_string()) {
    return top.invalid("architectures", "a list of " + supported);
  }
  const std::string& name = names->front().get_ref<const std::string&>();
  const auto family = std::ranges::find_if(families(), [&name](const Family& known) {
    return name == known.architecture || (!name.empty() && name == known.other_spelling);
  });
  if (family == families().end()) return top.not_supported("architectures", supported);
  return &*family;
}

Result<void> read_names(const Family& family, const Fields& fields, Description& out) {
  out.config.architecture = family.architecture;
  out.config.model_type = TRY(fields.text("model_type"));
  if (std::ranges::find(family.model_types, out.config.model_type) == family.model_types.end()) {
    std::string expected(family.model_types[0]);
    if (family.model_types[1] != expected) expected += " or " + std::string(family.model_types[1]);
    return fields.not_supported("model_type",
                                expected + " for " + std::string(family.architecture));
  }
  out.has_vision = !family.outer_model_type.empty();
  if (out.has_vision) out.tensor_prefix = "language_model.";
  return {};
}

Result<void> read_sizes(const Fields& fields, ModelConfig& config) {
  config.vocab_size = TRY(fields.count("vocab_size", kVocabulary));
  config.hidden_size = TRY(fields.count("hidden_size", kDimension));
  config.n_layers = TRY(fields.count("num_hidden_layers", kLayers));
  config.n_heads = TRY(fields.count("num_attention_heads", kHeads));
  config.max_positions = TRY(fields.count("max_position_embeddings", kPositions));
  return {};
}

// Ids that are not in the vocabulary can never be sampled: small copies of large models have
// larger ones, and some files say -1 or null for none.
Result<void> read_stop_tokens(const Fields& fields, ModelConfig& config) {
  const json* ids = fields.find("eos_token_id");
  if (ids == nullptr) return {};
  const json list = ids->is_array() ? *ids : json::array({*ids});
  if (list.size() > 64) return fields.invalid("eos_token_id", "at most 64 ids");
  for (const json& id : list) {
    if (!id.is_number_integer() && !id.is_null()) {
      return fields.invalid("eos_token_id", "a token id or a list of token ids");
    }
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= config.vocab_size) continue;
    config.eos_token_ids.push_back(id.get<std::uint32_t>());
  }
  return {};
}

Result<Description> read_family(const Family& family, const Fields& fields) {
  Description out;
  TRY(read_names(family, fields, out));
  TRY(read_sizes(fields, out.config));
  TRY(family.describe(fields, out));
  TRY(check_router(fields, out.config));
  TRY(read_stop_tokens(fields, out.config));
  out.config.rope = TRY(read_rope(fields, out.rope_defaults));
  TRY(refuse_other_stretch(fields, out));
  out.tied_head = TRY(fields.flag_or("tie_word_embeddings", false));
  out.n_mtp_layers = TRY(fields.count_or("num_nextn_predict_layers", 0, {0, 64}));
  TRY(refuse_other_maths(fields, out));
  return out;
}

// K2.5 keeps quantization_config at the top or in text_config; DeepSeek at the top.
Result<Quantization> read_quantization_of(const Fields& top, const std::optional<Fields>& text) {
  const Quantization outer = TRY(read_quantization(top));
  if (!text) return outer;
  const Quantization inner = TRY(read_quantization(*text));
  if (inner.method == QuantMethod::kNone) return outer;
  if (outer.method != QuantMethod::kNone && outer != inner) {
    return text->invalid("quantization_config", "the same as the one at the top level");
  }
  return inner;
}

}  // namespace

std::size_t ModelConfig::n_moe_layers() const {
  std::size_t count = 0;
  for (std::size_t layer = 0; layer < n_layers; ++layer) {
    if (is_moe(LayerId{static_cast<std::uint16_t>(layer)})) ++count;
  }
  return count;
}

Result<Description> parse_description(std::string_view text, std::string_view label) {
  const JsonObject document = TRY(parse_json_object(text, label));
  const Fields top(std::string(label), document.root);
  const Family& family = *TRY(find_family(top));
  std::optional<Fields> inner;
  if (!family.outer_model_type.empty()) {
    TRY(top.expect("model_type", json(family.outer_model_type)));
    inner = TRY(top.object("text_config"));
    if (!inner) return top.invalid("text_config", "an object");
    TRY(inner->expect_if_present("architectures", json::array({"DeepseekV3ForCausalLM"})));
  }
  // Every text field is looked for in text_config first, except the type of the text model, which
  // must stand there.
  const Fields fields = inner ? Fields(top.where(), inner->first(), &document.root) : top;
  if (inner) TRY(inner->text("model_type"));
  Description description = TRY(read_family(family, fields));
  if (inner) {
    const bool outer_ties = TRY(top.flag_or("tie_word_embeddings", false));
    const bool inner_ties = TRY(inner->flag_or("tie_word_embeddings", false));
    description.tied_head = outer_ties || inner_ties;
    description.own_head_wins = true;
  }
  description.quantization = TRY(read_quantization_of(top, inner));
  description.text = text;
  return description;
}

Result<ModelConfig> parse_config(std::string_view text, std::string_view label) {
  return TRY(parse_description(text, label)).config;
}

// Where a folder has several GGUF sets its config.json still says what they all are.
Result<Description> read_description(const std::filesystem::path& path) {
  const auto files = formats::find_gguf(path);
  std::error_code ignored;
  if (!files && !std::filesystem::exists(path / "config.json", ignored)) return files.error();
  if (files && *files) return describe_gguf(TRY(formats::Gguf::open(**files)));
  const std::string text = TRY(read_text_file(path / "config.json", kConfigBytesMax));
  return parse_description(text, "config.json");
}

Result<ModelConfig> read_config(const std::filesystem::path& path) {
  return TRY(read_description(path)).config;
}

}  // namespace conclave::model
