#include "model/description.h"
#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using nlohmann::json;

Result<ModelConfig> parse(const json& config) { return parse_config(config.dump(), "config.json"); }

std::string error_with(const char* field, const json& value) {
  json config = tiny_config();
  config[field] = value;
  const auto parsed = parse(config);
  return parsed ? "parsed" : parsed.error().message;
}

TEST(ConfigRefused, GroupsOfExperts) {
  json config = tiny_config();
  config["n_routed_experts"] = 8;
  config["n_group"] = 4;
  config["topk_group"] = 2;
  config["num_experts_per_tok"] = 4;
  ASSERT_TRUE(parse(config)) << parse(config).error().message;
  EXPECT_EQ(parse(config)->n_group, 4u);
  config["num_experts_per_tok"] = 5;
  EXPECT_EQ(
      parse(config).error().message,
      "config.json: num_experts_per_tok: 5, expected at most the 4 experts in the groups that "
      "are kept");
  config["n_group"] = 3;
  EXPECT_EQ(parse(config).error().message,
            "config.json: n_group: 3, expected a divisor of 8 experts");
  config["n_group"] = 8;
  EXPECT_NE(parse(config).error().message.find("at least 2 experts a group"), std::string::npos);
  EXPECT_NE(error_with("topk_group", 2).find("topk_group: 2, expected 1"), std::string::npos);
}

TEST(ConfigRefused, FieldsThatWouldChangeTheResultAreRefused) {
  const std::vector<std::pair<const char*, json>> refused = {
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"sliding_window", 4096},
      {"final_logit_softcapping", 30.0},
      {"index_topk", 2048},
      {"partial_rotary_factor", 0.5},
      {"qk_head_dim", 25},
      {"layer_types", {"full_attention"}},
      {"mlp_layer_types", {"dense", "dense", "sparse"}},
  };
  for (const auto& [field, value] : refused) {
    EXPECT_NE(error_with(field, value).find(std::string("config.json: ") + field + ": "),
              std::string::npos)
        << error_with(field, value);
  }
  EXPECT_EQ(error_with("sliding_window", nullptr), "parsed");
  EXPECT_EQ(error_with("mlp_layer_types", {"dense", "sparse", "sparse"}), "parsed");
}

}  // namespace
}  // namespace conclave::model
