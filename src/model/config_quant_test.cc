#include "model/description.h"
#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using nlohmann::json;

Result<QuantMethod> read(const json& quant) {
  const json root = {{"quantization_config", quant}};
  const auto found = read_quantization(Fields("config.json", root));
  if (!found) return found.error();
  return found->method;
}

TEST(ReadQuantization, KnownMethods) {
  EXPECT_EQ(*read(nullptr), QuantMethod::kNone);
  EXPECT_EQ(*read(int4_quantization()), QuantMethod::kInt4Group);
  EXPECT_EQ(*read(fp8_quantization()), QuantMethod::kFp8Block);
  json v31 = fp8_quantization();
  v31["scale_fmt"] = "ue8m0";
  EXPECT_EQ(*read(v31), QuantMethod::kFp8Block);
}

TEST(ReadQuantization, OtherInt4VariantsAreNamed) {
  const std::vector<std::pair<const char*, json>> variants = {
      {"num_bits", 3u},    {"type", "float"}, {"strategy", "tensor"},
      {"group_size", 48u}, {"dynamic", true}, {"actorder", "group"},
  };
  for (const auto& [field, value] : variants) {
    json quant = int4_quantization();
    quant["config_groups"]["group_0"]["weights"][field] = value;
    const auto method = read(quant);
    ASSERT_FALSE(method) << field;
    EXPECT_EQ(method.error().code, ErrorCode::kUnsupported) << method.error().message;
    EXPECT_NE(method.error().message.find(
                  std::string("quantization_config.config_groups.group_0.weights.") + field),
              std::string::npos)
        << method.error().message;
  }
}

TEST(ReadQuantization, OtherSizesShowInTheTensors) {
  const std::vector<std::pair<const char*, json>> variants = {
      {"num_bits", 8u}, {"strategy", "channel"}, {"group_size", 128u}};
  for (const auto& [field, value] : variants) {
    json quant = int4_quantization();
    quant["config_groups"]["group_0"]["weights"][field] = value;
    EXPECT_EQ(*read(quant), QuantMethod::kInt4Group) << field;
  }
  json asymmetric = int4_quantization();
  asymmetric["config_groups"]["group_0"]["weights"]["symmetric"] = false;
  const json root = {{"quantization_config", asymmetric}};
  const auto found = read_quantization(Fields("config.json", root));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->schemes, (std::vector<QuantScheme>{{4, 32, true}}));
  for (const char* field : {"num_bits", "symmetric", "group_size"}) {
    json quant = int4_quantization();
    quant["config_groups"]["group_0"]["weights"].erase(field);
    EXPECT_FALSE(read(quant)) << field;
  }
}

TEST(ReadQuantization, MlxHasAModeAModule) {
  const auto read_mlx = [](const json& quant) {
    const json root = {{"quantization", quant}, {"quantization_config", quant}};
    return read_quantization(Fields("config.json", root));
  };
  json quant = {{"group_size", 64u}, {"bits", 4u}, {"model.layers.0.mlp.gate", {{"bits", 8u}}}};
  EXPECT_EQ(read_mlx(quant)->method, QuantMethod::kMlx);
  EXPECT_EQ(read_mlx(quant)->schemes, (std::vector<QuantScheme>{{4, 64, false}, {8, 64, false}}));
  quant["mode"] = "mxfp4";
  quant["lm_head"] = false;
  EXPECT_EQ(read_mlx(quant)->method, QuantMethod::kMlx);
  quant["model.layers.0.mlp.gate"]["mode"] = "nvfp4";
  EXPECT_EQ(read_mlx(quant).error().message,
            "config.json: quantization.model.layers.0.mlp.gate.mode: \"nvfp4\", expected "
            "\"affine\" or \"mxfp4\"");
}

TEST(ReadQuantization, OtherLayoutsAreRefused) {
  json quant = int4_quantization();
  quant["format"] = "marlin-24";
  EXPECT_EQ(read(quant).error().message,
            "config.json: quantization_config.format: \"marlin-24\", expected \"pack-quantized\"");
  quant = int4_quantization();
  quant["config_groups"]["group_0"]["input_activations"] = {{"num_bits", 8}};
  EXPECT_FALSE(read(quant));
  quant = int4_quantization();
  quant["config_groups"] = json::object();
  EXPECT_FALSE(read(quant));
  quant = fp8_quantization();
  quant["weight_block_size"] = {64, 64};
  EXPECT_EQ(read(quant).error().message,
            "config.json: quantization_config.weight_block_size: [64,64], expected [128,128]");
  quant = fp8_quantization();
  quant["activation_scheme"] = "static";
  EXPECT_FALSE(read(quant));
  EXPECT_EQ(read({{"quant_method", "gptq"}}).error().message,
            "config.json: quantization_config.quant_method: \"gptq\", expected "
            "\"compressed-tensors\", \"fp8\" or \"mxfp4\"");
  EXPECT_FALSE(read("fp8"));
}

TEST(ReadQuantization, MayStandInTextConfig) {
  json text = tiny_config();
  text["quantization_config"] = int4_quantization();
  json config = {{"architectures", {"KimiK25ForConditionalGeneration"}},
                 {"model_type", "kimi_k25"},
                 {"text_config", text}};
  EXPECT_EQ(parse_description(config.dump(), "c")->quantization.method, QuantMethod::kInt4Group);
  config["quantization_config"] = fp8_quantization();
  EXPECT_FALSE(parse_description(config.dump(), "c"));
  config["text_config"].erase("quantization_config");
  EXPECT_EQ(parse_description(config.dump(), "c")->quantization.method, QuantMethod::kFp8Block);
}

}  // namespace
}  // namespace conclave::model
