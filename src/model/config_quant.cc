#include <algorithm>

#include "model/description.h"

namespace conclave::model {
namespace {

using nlohmann::json;

// One entry of config_groups: 4 or 8 bits, activations as they are.
Result<QuantScheme> read_int_group(const Fields& group) {
  for (const std::string_view field : {"input_activations", "output_activations"}) {
    if (group.find(field) != nullptr) return group.not_supported(field, "null");
  }
  TRY(group.expect_if_present("format", json("pack-quantized")));
  const std::optional<Fields> weights = TRY(group.object("weights"));
  if (!weights) return group.invalid("weights", "an object");
  const std::size_t bits = TRY(weights->count("num_bits", {1, 64}));
  if (bits != 4 && bits != 8) return weights->not_supported("num_bits", "4 or 8");
  TRY(weights->expect_if_present("type", json("int")));
  QuantScheme scheme{bits, 0, !TRY(weights->flag("symmetric"))};
  const std::string strategy = TRY(weights->text_or("strategy", "group"));
  if (strategy != "group" && strategy != "channel") {
    return weights->not_supported("strategy", "\"group\" or \"channel\"");
  }
  if (strategy == "group") {
    scheme.group = TRY(weights->count("group_size", {1, std::size_t{1} << 20}));
    if (scheme.group % 32 != 0) return weights->not_supported("group_size", "a multiple of 32");
  }
  TRY(weights->expect_if_present("dynamic", false));
  // Groups in the order of activations would need weight_g_idx; rows in that order do not.
  const json* order = weights->find("actorder");
  if (order != nullptr && *order != json("weight") && *order != json("static")) {
    TRY(weights->expect("actorder", false));
  }
  return scheme;
}

Result<Quantization> read_compressed_tensors(const Fields& quant) {
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
  Quantization out{QuantMethod::kInt4Group, {}};
  for (const auto& entry : groups->first().items()) {
    const std::optional<Fields> group = TRY(groups->object(entry.key()));
    if (!group) return groups->invalid(entry.key(), "an object");
    out.schemes.push_back(TRY(read_int_group(*group)));
  }
  return out;
}

Result<Quantization> read_fp8(const Fields& quant) {
  TRY(quant.expect_if_present("fmt", json("e4m3")));
  TRY(quant.expect("weight_block_size", json::array({128, 128})));
  // Static activation scales would be tensors that change the result.
  TRY(quant.expect_if_present("activation_scheme", json("dynamic")));
  return Quantization{QuantMethod::kFp8Block, {}};
}

// MLX's, for all modules or one that says what is different. docs/models.md 5.3
Result<QuantScheme> read_mlx_module(const Fields& module, const QuantScheme& otherwise) {
  const std::string mode = TRY(module.text_or("mode", "affine"));
  if (mode != "affine" && mode != "mxfp4") {
    return module.not_supported("mode", "\"affine\" or \"mxfp4\"");
  }
  return QuantScheme{TRY(module.count_or("bits", otherwise.bits, {1, 64})),
                     TRY(module.count_or("group_size", otherwise.group, {1, 1 << 20})), false};
}

Result<Quantization> read_mlx(const Fields& quant) {
  const QuantScheme all = TRY(read_mlx_module(quant, {4, 64, false}));
  Quantization out{QuantMethod::kMlx, {all}};
  for (const auto& entry : quant.first().items()) {
    if (!entry.value().is_object()) continue;
    const std::optional<Fields> module = TRY(quant.object(entry.key()));
    const QuantScheme own = TRY(read_mlx_module(*module, all));
    if (std::ranges::find(out.schemes, own) == out.schemes.end()) out.schemes.push_back(own);
  }
  return out;
}

}  // namespace

Result<Quantization> read_quantization(const Fields& owner) {
  if (const std::optional<Fields> mlx = TRY(owner.object("quantization"))) return read_mlx(*mlx);
  const std::optional<Fields> quant = TRY(owner.object("quantization_config"));
  if (!quant) return Quantization{};
  const std::string method = TRY(quant->text("quant_method"));
  if (method == "compressed-tensors") return read_compressed_tensors(*quant);
  if (method == "fp8") return read_fp8(*quant);
  if (method == "mxfp4") return Quantization{QuantMethod::kMxfp4, {}};  // has nothing to choose
  return quant->not_supported("quant_method", "\"compressed-tensors\", \"fp8\" or \"mxfp4\"");
}

}  // namespace conclave::model
