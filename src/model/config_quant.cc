#include "model/description.h"

namespace conclave::model {
namespace {

using nlohmann::json;

// One entry of config_groups: 4 bits, symmetric, groups of 32, activations as they are.
Result<void> check_int4_group(const Fields& group) {
  for (const std::string_view field : {"input_activations", "output_activations"}) {
    if (group.find(field) != nullptr) return group.not_supported(field, "null");
  }
  TRY(group.expect_if_present("format", json("pack-quantized")));
  const std::optional<Fields> weights = TRY(group.object("weights"));
  if (!weights) return group.invalid("weights", "an object");
  TRY(weights->expect("num_bits", 4));
  TRY(weights->expect_if_present("type", json("int")));
  TRY(weights->expect("symmetric", true));
  TRY(weights->expect_if_present("strategy", json("group")));
  TRY(weights->expect("group_size", 32));
  TRY(weights->expect_if_present("dynamic", false));
  // Activation order would need weight_g_idx.
  return weights->expect_if_present("actorder", false);
}

Result<QuantMethod> read_compressed_tensors(const Fields& quant) {
  TRY(quant.expect("format", json("pack-quantized")));
  TRY(quant.expect_if_present("quantization_status", json("compressed")));
  if (quant.find("kv_cache_scheme") != nullptr) {
    return quant.not_supported("kv_cache_scheme", "null");
  }
  TRY(quant.expect_if_present("transform_config", json::object()));
  const std::optional<Fields> sparsity = TRY(quant.object("sparsity_config"));
  if (sparsity && !sparsity->first().empty()) TRY(sparsity->expect("format", json("dense")));

  const std::optional<Fields> groups = TRY(quant.object("config_groups"));
  if (!groups || groups->first().empty()) {
    return quant.invalid("config_groups", "an object with a group");
  }
  for (const auto& entry : groups->first().items()) {
    const std::optional<Fields> group = TRY(groups->object(entry.key()));
    if (!group) return groups->invalid(entry.key(), "an object");
    TRY(check_int4_group(*group));
  }
  return QuantMethod::kInt4Group;
}

Result<QuantMethod> read_fp8(const Fields& quant) {
  TRY(quant.expect_if_present("fmt", json("e4m3")));
  TRY(quant.expect("weight_block_size", json::array({128, 128})));
  // Static activation scales would be tensors that change the result.
  TRY(quant.expect_if_present("activation_scheme", json("dynamic")));
  return QuantMethod::kFp8Block;
}

}  // namespace

Result<QuantMethod> read_quantization(const Fields& owner) {
  const std::optional<Fields> quant = TRY(owner.object("quantization_config"));
  if (!quant) return QuantMethod::kNone;
  const std::string method = TRY(quant->text("quant_method"));
  if (method == "compressed-tensors") return read_compressed_tensors(*quant);
  if (method == "fp8") return read_fp8(*quant);
  if (method == "mxfp4") return QuantMethod::kMxfp4;  // has nothing to choose
  return quant->not_supported("quant_method", "\"compressed-tensors\", \"fp8\" or \"mxfp4\"");
}

}  // namespace conclave::model
