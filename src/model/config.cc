#include <algorithm>
#include <array>
#include <utility>

#include "base/mapped_file.h"
#include "model/description.h"
#include "model/model.h"

namespace conclave::model {
namespace {

using nlohmann::json;

constexpr CountLimits kDimension{1, std::size_t{1} << 20};
constexpr CountLimits kVocabulary{1, std::size_t{1} << 24};
constexpr CountLimits kLayers{1, 1024};
constexpr CountLimits kHeads{1, 4096};
constexpr CountLimits kExperts{1, 4096};
constexpr CountLimits kPositions{1, std::size_t{1} << 30};
constexpr NumberLimits kEpsilon{1e-12, 1e-2};
constexpr NumberLimits kScalingFactor{1e-6, 1e6};

// The epsilon of q_a_layernorm and kv_a_layernorm: their modules are made with the class default,
// whatever rms_norm_eps says. docs/models.md 2.1.
constexpr float kInnerNormEps = 1e-6f;

struct Family {
  std::string_view architecture;
  std::string_view other_spelling;    // of transformers 5, where it differs
  std::string_view outer_model_type;  // not empty: the text fields are in `text_config`
  std::array<std::string_view, 2> model_types;
};

constexpr std::array<Family, 3> kFamilies = {{
    {"DeepseekV2ForCausalLM", "", "", {"deepseek_v2", "deepseek_v2"}},
    {"DeepseekV3ForCausalLM", "", "", {"deepseek_v3", "kimi_k2"}},
    {"KimiK25ForConditionalGeneration",
     "Kimi_K25ForConditionalGeneration",
     "kimi_k25",
     {"kimi_k2", "deepseek_v3"}},
}};

// Whether the outermost `model_type` is one of this family.
bool has_type(const Family& family, const json& type) {
  if (!family.outer_model_type.empty()) return type == json(family.outer_model_type);
  return std::ranges::any_of(family.model_types,
                             [&type](std::string_view known) { return type == json(known); });
}

Result<const Family*> find_family(const Fields& top) {
  std::string supported = "one of";
  for (const Family& family : kFamilies) supported += " " + std::string(family.architecture);
  const json* names = top.find("architectures");
  const json* type = top.find("model_type");
  if (names == nullptr && type != nullptr) {
    const auto family = std::ranges::find_if(
        kFamilies, [type](const Family& known) { return has_type(known, *type); });
    if (family != kFamilies.end()) return &*family;
  }
  if (names == nullptr || !names->is_array() || names->size() != 1 || !names->front().is_string()) {
    return top.invalid("architectures", "a list of " + supported);
  }
  const std::string& name = names->front().get_ref<const std::string&>();
  const auto family = std::ranges::find_if(kFamilies, [&name](const Family& known) {
    return name == known.architecture || (!name.empty() && name == known.other_spelling);
  });
  if (family == kFamilies.end()) return top.not_supported("architectures", supported);
  return &*family;
}

// Reads one config, field group by field group.
class ConfigReader {
 public:
  ConfigReader(const Family& family, Fields fields) : family_(family), fields_(std::move(fields)) {}

  Result<Description> read() {
    TRY(read_names());
    TRY(read_sizes());
    TRY(read_attention());
    TRY(read_experts());
    TRY(read_router());
    TRY(read_stop_tokens());
    config().rope = TRY(read_rope(fields_));
    out_.tied_head = TRY(fields_.flag_or("tie_word_embeddings", false));
    out_.n_mtp_layers = TRY(fields_.count_or("num_nextn_predict_layers", 0, {0, 64}));
    TRY(refuse_other_maths(fields_, config()));
    return std::move(out_);
  }

 private:
  ModelConfig& config() { return out_.config; }
  bool is_v2() const { return family_.architecture == "DeepseekV2ForCausalLM"; }

  Result<void> read_names() {
    config().architecture = family_.architecture;
    config().model_type = TRY(fields_.text("model_type"));
    if (std::ranges::find(family_.model_types, config().model_type) == family_.model_types.end()) {
      return fields_.not_supported("model_type", std::string(family_.model_types[0]) + " or " +
                                                     std::string(family_.model_types[1]) + " for " +
                                                     std::string(family_.architecture));
    }
    out_.has_vision = !family_.outer_model_type.empty();
    if (out_.has_vision) out_.tensor_prefix = "language_model.";
    return {};
  }

  Result<void> read_sizes() {
    config().vocab_size = TRY(fields_.count("vocab_size", kVocabulary));
    config().hidden_size = TRY(fields_.count("hidden_size", kDimension));
    config().n_layers = TRY(fields_.count("num_hidden_layers", kLayers));
    // Only ever compared with a layer's number, so more than there are layers means all of them.
    const std::size_t n_dense = TRY(fields_.count("first_k_dense_replace", {0, kLayers.max}));
    config().n_dense_layers = std::min(n_dense, config().n_layers);
    config().moe_layer_freq = TRY(fields_.count_or("moe_layer_freq", 1, kLayers));
    config().intermediate_size = TRY(fields_.count("intermediate_size", kDimension));
    config().max_positions = TRY(fields_.count("max_position_embeddings", kPositions));
    config().rms_norm_eps =
        static_cast<float>(TRY(fields_.number_or("rms_norm_eps", 1e-6, kEpsilon)));
    config().inner_norm_eps = kInnerNormEps;
    return {};
  }

  Result<void> read_attention() {
    config().n_heads = TRY(fields_.count("num_attention_heads", kHeads));
    if (fields_.find("q_lora_rank") != nullptr) {
      config().q_lora_rank = TRY(fields_.count("q_lora_rank", kDimension));
    }
    config().kv_lora_rank = TRY(fields_.count("kv_lora_rank", kDimension));
    config().qk_nope_head_dim = TRY(fields_.count("qk_nope_head_dim", {1, 4096}));
    config().qk_rope_head_dim = TRY(fields_.count("qk_rope_head_dim", {2, 4096}));
    if (config().qk_rope_head_dim % 2 != 0) {
      return fields_.invalid("qk_rope_head_dim", "an even number");
    }
    config().v_head_dim = TRY(fields_.count("v_head_dim", {1, 4096}));
    config().rope_interleaved = TRY(fields_.flag_or("rope_interleave", true));
    return {};
  }

  Result<void> read_experts() {
    config().n_experts = TRY(fields_.count("n_routed_experts", kExperts));
    config().n_shared_experts = TRY(fields_.count_or("n_shared_experts", 0, {0, 64}));
    config().moe_intermediate_size = TRY(fields_.count("moe_intermediate_size", kDimension));
    config().experts_per_token = TRY(fields_.count("num_experts_per_tok", {1, config().n_experts}));
    return {};
  }

  // transformers 5 writes neither scoring_func nor, for V3, topk_method: the model type decides.
  Result<RouterKind> read_router_kind() const {
    const std::string method = TRY(fields_.text_or("topk_method", is_v2() ? "greedy" : "noaux_tc"));
    const std::string scoring =
        TRY(fields_.text_or("scoring_func", is_v2() ? "softmax" : "sigmoid"));
    if (is_v2() && scoring != "softmax")
      return fields_.not_supported("scoring_func", "\"softmax\"");
    if (!is_v2() && scoring != "sigmoid")
      return fields_.not_supported("scoring_func", "\"sigmoid\"");
    if (!is_v2() && method == "noaux_tc") return RouterKind::kSigmoidBiased;
    if (is_v2() && method == "greedy") return RouterKind::kSoftmaxGreedy;
    if (is_v2() && method == "group_limited_greedy") return RouterKind::kSoftmaxGroupLimited;
    return fields_.not_supported(
        "topk_method", is_v2() ? "\"greedy\" or \"group_limited_greedy\"" : "\"noaux_tc\"");
  }

  Result<void> read_router() {
    config().router = TRY(read_router_kind());
    if (config().router != RouterKind::kSoftmaxGreedy) {
      config().n_group = TRY(fields_.count("n_group", {1, config().n_experts}));
      config().topk_group = TRY(fields_.count("topk_group", {1, config().n_group}));
    }
    config().norm_topk_prob = is_v2() ? TRY(fields_.flag_or("norm_topk_prob", false))
                                      : TRY(fields_.flag("norm_topk_prob"));
    config().routed_scaling_factor = static_cast<float>(
        is_v2() ? TRY(fields_.number_or("routed_scaling_factor", 1.0, kScalingFactor))
                : TRY(fields_.number("routed_scaling_factor", kScalingFactor)));
    return check_router(fields_, config());
  }

  // Ids that are not in the vocabulary can never be sampled: small copies of large models have
  // larger ones, and some files say -1 or null for none.
  Result<void> read_stop_tokens() {
    const json* ids = fields_.find("eos_token_id");
    if (ids == nullptr) return {};
    const json list = ids->is_array() ? *ids : json::array({*ids});
    if (list.size() > 64) return fields_.invalid("eos_token_id", "at most 64 ids");
    for (const json& id : list) {
      if (!id.is_number_integer() && !id.is_null()) {
        return fields_.invalid("eos_token_id", "a token id or a list of token ids");
      }
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= config().vocab_size) continue;
      config().eos_token_ids.push_back(id.get<std::uint32_t>());
    }
    return {};
  }

  const Family& family_;
  Fields fields_;
  Description out_;
};

// K2.5 keeps quantization_config at the top or in text_config; DeepSeek at the top.
Result<QuantMethod> read_quantization_of(const Fields& top, const std::optional<Fields>& text) {
  const QuantMethod outer = TRY(read_quantization(top));
  if (!text) return outer;
  const QuantMethod inner = TRY(read_quantization(*text));
  if (inner == QuantMethod::kNone) return outer;
  if (outer != QuantMethod::kNone && outer != inner) {
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
  Description description = TRY(ConfigReader(family, fields).read());
  if (inner) {
    const bool outer_ties = TRY(top.flag_or("tie_word_embeddings", false));
    const bool inner_ties = TRY(inner->flag_or("tie_word_embeddings", false));
    description.tied_head = outer_ties || inner_ties;
    description.own_head_wins = true;
  }
  description.quant = TRY(read_quantization_of(top, inner));
  return description;
}

Result<ModelConfig> parse_config(std::string_view text, std::string_view label) {
  return TRY(parse_description(text, label)).config;
}

Result<ModelConfig> read_config(const std::filesystem::path& dir) {
  const std::string text = TRY(read_text_file(dir / "config.json", kConfigBytesMax));
  return parse_config(text, "config.json");
}

}  // namespace conclave::model
