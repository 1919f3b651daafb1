#include "model/description.h"

namespace conclave::model {
namespace {

using nlohmann::json;

// One entry of config_groups: 4 or 8 bits, activations as they are. Sizes of groups and zero points
// are read off the tensors.
Result<void> check_int_group(const Fields& group, bool& all_asymmetric) {
  for (const std::string_view field : {"input_activations", "output_activations"}) {
    if (group.find(field) != nullptr) return group.not_supported(field, "null");
  }
  TRY(group.expect_if_present("format", json("pack-quantized")));
  const std::optional<Fields> weights = TRY(group.object("weights"));
  if (!weights) return group.invalid("weights", "an object");
  const std::size_t bits = TRY(weights->count("num_bits", {1, 64}));
  if (bits != 4 && bits != 8) return weights->not_supported("num_bits", "4 or 8");
  TRY(weights->expect_if_present("type", json("int")));
  all_asymmetric &= !TRY(weights->flag("symmetric"));
  const std::string strategy = TRY(weights->text_or("strategy", "group"));
  if (strategy != "group" && strategy != "channel") {
    return weights->not_supported("strategy", "\"group\" or \"channel\"");
  }
  if (strategy == "group") {
    const std::size_t size = TRY(weights->count("group_size", {1, std::size_t{1} << 20}));
    if (size % 32 != 0) return weights->not_supported("group_size", "a multiple of 32");
  }
  TRY(weights->expect_if_present("dynamic", false));
  // Groups in the order of activations would need weight_g_idx; rows in that order do not.
  const json* order = weights->find("actorder");
  if (order == nullptr || *order == json("weight") || *order == json("static")) return {};
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
  bool all_asymmetric = true;
  for (const auto& entry : groups->first().items()) {
    const std::optional<Fields> group = TRY(groups->object(entry.key()));
    if (!group) return groups->invalid(entry.key(), "an object");
    TRY(check_int_group(*group, all_asymmetric));
  }
  return all_asymmetric ? QuantMethod::kIntZeroPoints : QuantMethod::kInt4Group;
}

Result<QuantMethod> read_fp8(const Fields& quant) {
  TRY(quant.expect_if_present("fmt", json("e4m3")));
  TRY(quant.expect("weight_block_size", json::array({128, 128})));
  // Static activation scales would be tensors that change the result.
  TRY(quant.expect_if_present("activation_scheme", json("dynamic")));
  return QuantMethod::kFp8Block;
}

// MLX's, for all modules or one: bits and groups show in the tensors. docs/models.md 5.3
Result<void> check_mlx_mode(const Fields& module) {
  const std::string mode = TRY(module.text_or("mode", "affine"));
  if (mode == "affine" || mode == "mxfp4") return {};
  return module.not_supported("mode", "\"affine\" or \"mxfp4\"");
}

Result<QuantMethod> read_mlx(const Fields& quant) {
  TRY(check_mlx_mode(quant));
  for (const auto& entry : quant.first().items()) {
    if (!entry.value().is_object()) continue;
    const std::optional<Fields> module = TRY(quant.object(entry.key()));
    TRY(check_mlx_mode(*module));
  }
  return QuantMethod::kMlx;
}

}  // namespace

Result<QuantMethod> read_quantization(const Fields& owner) {
  if (const std::optional<Fields> mlx = TRY(owner.object("quantization"))) return read_mlx(*mlx);
  const std::optional<Fields> quant = TRY(owner.object("quantization_config"));
  if (!quant) return QuantMethod::kNone;
  const std::string method = TRY(quant->text("quant_method"));
  if (method == "compressed-tensors") return read_compressed_tensors(*quant);
  if (method == "fp8") return read_fp8(*quant);
  if (method == "mxfp4") return QuantMethod::kMxfp4;  // has nothing to choose
  return quant->not_supported("quant_method", "\"compressed-tensors\", \"fp8\" or \"mxfp4\"");
}

}  // namespace conclave::model
