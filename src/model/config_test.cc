#include <gtest/gtest.h>

#include "model/description.h"
#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using nlohmann::json;

Result<ModelConfig> parse(const json& config) { return parse_config(config.dump(), "config.json"); }

// The message after one field is set (or, with a discarded value, removed).
std::string error_with(const char* field, const json& value) {
  json config = tiny_config();
  config[field] = value;
  const auto parsed = parse(config);
  return parsed ? "parsed" : parsed.error().message;
}

std::string error_without(const char* field) {
  json config = tiny_config();
  config.erase(field);
  const auto parsed = parse(config);
  return parsed ? "parsed" : parsed.error().message;
}

TEST(Config, ReadsEveryField) {
  const auto config = parse(tiny_config());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->architecture, "DeepseekV3ForCausalLM");
  EXPECT_EQ(config->model_type, "kimi_k2");
  EXPECT_EQ(config->n_layers, 3u);
  EXPECT_EQ(config->n_moe_layers(), 2u);
  EXPECT_EQ(config->kv_width(), 56u);
  EXPECT_EQ(config->qk_head_dim(), 24u);
  EXPECT_EQ(config->router, RouterKind::kSigmoidBiased);
  EXPECT_TRUE(config->norm_topk_prob);
  EXPECT_EQ(config->routed_scaling_factor, 2.5f);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_EQ(config->inner_norm_eps, 1e-6f);
  EXPECT_TRUE(config->rope_interleaved);
  EXPECT_FALSE(config->rope.yarn);
  EXPECT_EQ(config->rope.theta, 50000.0);
  EXPECT_EQ(config->eos_token_ids, std::vector<std::uint32_t>{5});
}

TEST(Config, TheModelTypeGivesTheRouterThatTransformers5LeavesOut) {
  json config = tiny_config();
  for (const char* field : {"topk_method", "scoring_func", "moe_layer_freq",
                            "num_nextn_predict_layers", "tie_word_embeddings"}) {
    config.erase(field);
  }
  config["rope_interleave"] = false;
  config["qk_head_dim"] = 24;
  config["head_dim"] = 8;
  const auto parsed = parse(config);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->router, RouterKind::kSigmoidBiased);
  EXPECT_FALSE(parsed->rope_interleaved);
}

TEST(Config, OtherRoutersAreRefused) {
  EXPECT_EQ(error_with("scoring_func", "softmax"),
            "config.json: scoring_func: \"softmax\", expected \"sigmoid\"");
  EXPECT_EQ(error_with("topk_method", "greedy"),
            "config.json: topk_method: \"greedy\", expected \"noaux_tc\"");
}

json v2_config() {
  json config = tiny_config();
  config.update({{"architectures", {"DeepseekV2ForCausalLM"}},
                 {"model_type", "deepseek_v2"},
                 {"topk_method", "greedy"},
                 {"scoring_func", "softmax"},
                 {"norm_topk_prob", false},
                 {"routed_scaling_factor", 16.0}});
  return config;
}

TEST(Config, DeepseekV2Routers) {
  json config = v2_config();
  EXPECT_EQ(parse(config)->router, RouterKind::kSoftmaxGreedy);
  config["topk_method"] = "group_limited_greedy";
  config["n_group"] = 2;
  EXPECT_EQ(parse(config)->router, RouterKind::kSoftmaxGroupLimited);
  config["norm_topk_prob"] = true;
  EXPECT_EQ(parse(config).error().code, ErrorCode::kUnsupported);
  config["routed_scaling_factor"] = 1;
  EXPECT_TRUE(parse(config));
  config["topk_method"] = "noaux_tc";
  EXPECT_FALSE(parse(config));
}

TEST(Config, UnknownArchitecturesAreNamed) {
  for (const char* name : {"KimiK3ForConditionalGeneration", "LlamaForCausalLM",
                           "DeepseekV32ForCausalLM", "Qwen2MoeForCausalLM"}) {
    json config = tiny_config();
    config["architectures"] = {name};
    const auto parsed = parse(config);
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(parsed.error().message,
              std::string("config.json: architectures: [\"") + name +
                  "\"], expected one of DeepseekV2ForCausalLM DeepseekV3ForCausalLM "
                  "KimiK25ForConditionalGeneration Qwen3MoeForCausalLM MixtralForCausalLM "
                  "Glm4MoeForCausalLM GptOssForCausalLM");
  }
  EXPECT_NE(error_with("model_type", "kimi_linear"), "parsed");
}

TEST(Config, WithoutAnArchitectureTheModelTypeDecides) {
  for (const auto& [type, architecture] : std::vector<std::pair<const char*, const char*>>{
           {"kimi_k2", "DeepseekV3ForCausalLM"},
           {"deepseek_v3", "DeepseekV3ForCausalLM"},
           {"deepseek_v2", "DeepseekV2ForCausalLM"},
           {"kimi_k25", "KimiK25ForConditionalGeneration"}}) {
    json config = tiny_config();
    if (type == std::string("deepseek_v2")) {
      config.update(
          {{"topk_method", "greedy"}, {"scoring_func", "softmax"}, {"routed_scaling_factor", 1.0}});
    }
    if (type == std::string("kimi_k25")) config = {{"text_config", config}};
    config["model_type"] = type;
    config.erase("architectures");
    if (config.contains("text_config")) config["text_config"].erase("architectures");
    const auto absent = parse(config);
    ASSERT_TRUE(absent) << absent.error().message;
    EXPECT_EQ(absent->architecture, architecture);
    config["architectures"] = nullptr;
    EXPECT_TRUE(parse(config));
  }
  json unsaid = tiny_config();
  unsaid.erase("architectures");
  for (const json& type : {json("llama"), json(nullptr), json(3)}) {
    unsaid["model_type"] = type;
    EXPECT_EQ(parse(unsaid).error().message.find("config.json: architectures: missing"), 0u);
  }
  EXPECT_NE(error_with("architectures", json::array()), "parsed");
  EXPECT_NE(error_with("architectures", {""}), "parsed");
}

TEST(Config, MoreDenseLayersThanLayersMeansAll) {
  json config = tiny_config();
  config["first_k_dense_replace"] = 4;
  const auto parsed = parse(config);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->n_dense_layers, 3u);
  EXPECT_EQ(parsed->n_moe_layers(), 0u);
}

TEST(Config, SharedExpertsAreOptional) {
  EXPECT_EQ(error_without("n_shared_experts"), "parsed");
  EXPECT_EQ(error_with("n_shared_experts", nullptr), "parsed");
  json config = tiny_config();
  config["n_shared_experts"] = 0;
  EXPECT_EQ(parse(config)->n_shared_experts, 0u);
}

TEST(Config, RangesAreChecked) {
  EXPECT_EQ(error_with("hidden_size", -5),
            "config.json: hidden_size: -5, expected a whole number from 1 to 1048576");
  EXPECT_EQ(error_without("kv_lora_rank"),
            "config.json: kv_lora_rank: missing, expected a whole number from 1 to 1048576");
  for (const auto& [field, value] : std::vector<std::pair<const char*, json>>{
           {"vocab_size", 0},
           {"hidden_size", 64.5},
           {"hidden_size", "64"},
           {"num_hidden_layers", 100000},
           {"first_k_dense_replace", 1025},
           {"num_experts_per_tok", 5},
           {"n_shared_experts", 65},
           {"qk_rope_head_dim", 7},
           {"q_lora_rank", 0},
           {"moe_layer_freq", 0},
           {"rms_norm_eps", 0.0},
           {"rms_norm_eps", -1e-6},
           {"routed_scaling_factor", nullptr},
           {"norm_topk_prob", 1},
           {"eos_token_id", 1.5},
           {"eos_token_id", "x"},
           {"tie_word_embeddings", "no"},
           {"max_position_embeddings", 0},
           {"rope_theta", 1.0},
       }) {
    EXPECT_NE(error_with(field, value).find(std::string("config.json: ") + field + ": "),
              std::string::npos)
        << field << " " << value;
  }
}

TEST(Config, StopTokensAreANumberOrAList) {
  json config = tiny_config();
  config["eos_token_id"] = {3, 4, 163586};
  EXPECT_EQ(parse(config)->eos_token_ids, (std::vector<std::uint32_t>{3, 4}));
  config["eos_token_id"] = nullptr;
  EXPECT_TRUE(parse(config)->eos_token_ids.empty());
  config["eos_token_id"] = -1;
  EXPECT_TRUE(parse(config)->eos_token_ids.empty());
  config["eos_token_id"] = {nullptr, -1, 7, std::uint64_t{1} << 40};
  EXPECT_EQ(parse(config)->eos_token_ids, std::vector<std::uint32_t>{7});
}

TEST(Config, K25NestsTheTextFields) {
  json text = tiny_config();
  text.erase("eos_token_id");
  const json config = {{"architectures", {"KimiK25ForConditionalGeneration"}},
                       {"model_type", "kimi_k25"},
                       {"eos_token_id", 9},
                       {"hidden_size", 1},
                       {"text_config", text}};
  const auto parsed = parse_description(config.dump(), "config.json");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->config.model_type, "kimi_k2");
  EXPECT_EQ(parsed->config.hidden_size, 64u);
  EXPECT_EQ(parsed->config.eos_token_ids, std::vector<std::uint32_t>{9});
  EXPECT_EQ(parsed->tensor_prefix, "language_model.");
  json respelt = config;
  respelt["architectures"] = {"Kimi_K25ForConditionalGeneration"};
  EXPECT_EQ(parse(respelt)->architecture, "KimiK25ForConditionalGeneration");
  json broken = config;
  broken["text_config"].erase("model_type");
  EXPECT_FALSE(parse(broken));
  broken.erase("text_config");
  EXPECT_FALSE(parse(broken));
}

TEST(Config, BadTextIsAnErrorNotACrash) {
  for (const std::string text :
       {"", "[]", "{", "{}x", "{\"a\":1,}", "nul", "{\"hidden_size\":1e999}", "\xff\xfe"}) {
    EXPECT_FALSE(parse_config(text, "config.json")) << text;
  }
  EXPECT_EQ(parse_config(std::string(100'000, '['), "config.json").error().message,
            "config.json: nested deeper than 32");
  EXPECT_EQ(parse_config(R"({"a":{"b":1,"b":2}})", "config.json").error().message,
            "config.json: \"b\": named twice in one object");
}

}  // namespace
}  // namespace conclave::model
