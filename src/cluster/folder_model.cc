#include "cluster/folder_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/mapped_file.h"
#include "formats/formats.h"

namespace conclave::cluster {
namespace {

using nlohmann::json;

constexpr std::size_t kConfigBytesMax = std::size_t{1} << 20;

constexpr plan::PartFormat kInt4 = {plan::Format::kInt4, 0.5625, /*scale_only=*/true};
constexpr plan::PartFormat kFp8 = {plan::Format::kFp8, 1.0 + 4.0 / (128.0 * 128.0)};
constexpr plan::PartFormat kBf16 = {plan::Format::kBf16, 2.0};

bool has_tensors(const std::filesystem::path& dir) {
  if (const auto gguf = formats::find_gguf(dir); gguf && gguf->has_value()) return true;
  std::error_code error;
  std::filesystem::directory_iterator entry(dir, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    if (entry->path().extension() == ".safetensors") return true;
  }
  return false;
}

const json* member(const json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

// "fp8", "compressed-tensors" or empty. model::read_config has checked the rest.
std::string quant_method(const json& config) {
  const json* owner = &config;
  if (const json* text = member(config, "text_config"); text != nullptr && text->is_object()) {
    if (text->contains("quantization_config")) owner = text;
  }
  const json* quant = member(*owner, "quantization_config");
  if (quant == nullptr || !quant->is_object()) return "";
  const json* method = member(*quant, "quant_method");
  return method != nullptr && method->is_string() ? method->get<std::string>() : "";
}

// What MLX's `quantization` says of all modules: kept as nibbles or bytes with float32 scales.
std::optional<plan::PartFormat> mlx_format(const json& config) {
  const json* quant = member(config, "quantization");
  if (quant == nullptr || !quant->is_object()) return std::nullopt;
  const json* bits = member(*quant, "bits");
  if (bits == nullptr || !bits->is_number_unsigned()) return std::nullopt;
  if (bits->get<unsigned>() <= 4) return plan::PartFormat{plan::Format::kInt4, 0.75};
  return plan::PartFormat{plan::Format::kInt8, 1.25};
}

// As the configuration says, for a folder without tensors.
Result<plan::Quant> stated_quant(const std::filesystem::path& dir, model::WeightsMode mode) {
  const std::string text = TRY(read_text_file(dir / "config.json", kConfigBytesMax));
  const json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const std::string method = parsed.is_object() ? quant_method(parsed) : "";
  if (const auto mlx = parsed.is_object() ? mlx_format(parsed) : std::nullopt) {
    return plan::quant_of(mode, *mlx, *mlx);
  }
  const plan::PartFormat rest = method == "fp8" ? kFp8 : kBf16;
  return plan::quant_of(mode, method == "compressed-tensors" || method == "mxfp4" ? kInt4 : rest,
                        rest);
}

plan::Format format_of(const model::PartBytes& part, double bytes) {
  const bool four_bits = part.format.find("int4") != std::string::npos ||
                         part.format.find("mxfp4") != std::string::npos;
  if (four_bits && bytes < 0.8) return plan::Format::kInt4;
  if (part.format.find("fp8") != std::string::npos && bytes < 1.05) return plan::Format::kFp8;
  if (bytes < 1.5) return plan::Format::kInt8;
  return bytes < 3.0 ? plan::Format::kBf16 : plan::Format::kF32;
}

std::vector<plan::Part> parts_named(std::string_view name) {
  if (name == "embedding") return {plan::Part::kEmbedding};
  if (name == "attention") return {plan::Part::kAttention, plan::Part::kAttentionSmall};
  if (name == "dense FFN") return {plan::Part::kDense};
  if (name == "shared experts") return {plan::Part::kShared};
  if (name == "routed experts") return {plan::Part::kRouted};
  if (name == "router") return {plan::Part::kRouter};
  if (name == "head") return {plan::Part::kHead};
  return {};  // norms: too small to count
}

plan::Quant measured_quant(const model::ModelReport& report) {
  plan::Quant quant;
  for (const model::PartBytes& part : report.parts) {
    if (part.parameters == 0) continue;
    const double bytes =
        static_cast<double>(part.kept_bytes) / static_cast<double>(part.parameters);
    for (const plan::Part place : parts_named(part.part)) {
      const plan::Format format = format_of(part, bytes);
      // conclave keeps the shipped scales alone.
      quant.of(place) = {format, bytes, /*scale_only=*/format == plan::Format::kInt4};
    }
  }
  return quant;
}

}  // namespace

Result<plan::Model> read_folder_model(const std::filesystem::path& dir, model::WeightsMode mode) {
  const model::ModelConfig config = TRY(model::read_config(dir));
  plan::Model result;
  result.architecture = plan::architecture_of(config, formats::model_name(dir));
  if (has_tensors(dir)) {
    const model::ModelSource source = TRY(model::ModelSource::open(dir));
    result.quant = measured_quant(model::inspect(source, mode));
  } else {
    result.quant = TRY(stated_quant(dir, mode));
  }
  result.quant.name = model::name(mode);
  TRY(plan::check(result.architecture));
  return result;
}

}  // namespace conclave::cluster
