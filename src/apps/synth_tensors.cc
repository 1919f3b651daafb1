#include "apps/synth_tensors.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"
#include "kernels/kernels.h"

namespace conclave::apps {
namespace {

using formats::DType;

// Adds tensors to a table in the way one checkpoint stores them.
class TableWriter {
 public:
  explicit TableWriter(SynthQuant quant) : quant_(quant) {}

  void norm(std::string name, std::size_t width) {
    table_.push_back({.name = std::move(name), .shape = {width}, .fill = SynthFill::kOnes});
  }

  void bias(std::string name, std::size_t width) {
    table_.push_back({.name = std::move(name),
                      .dtype = DType::kF32,
                      .shape = {width},
                      .fill = SynthFill::kBias,
                      .deviation = 0.01f});
  }

  // Kept as it is by every --weights: embedding and router.
  void plain(const std::string& module, std::size_t rows, std::size_t cols) {
    add_bf16(module, rows, cols, SynthFill::kNormal);
  }

  // BF16 in every official file, but `--weights int8` rounds it.
  void head(const std::string& module, std::size_t rows, std::size_t cols) {
    const bool grid = quant_ == SynthQuant::kInt8Exact;
    add_bf16(module, rows, cols, grid ? SynthFill::kNormalInt8 : SynthFill::kNormal);
  }

  void linear(const std::string& module, std::size_t rows, std::size_t cols) {
    if (quant_ == SynthQuant::kFp8) return add_fp8(module, rows, cols);
    head(module, rows, cols);
  }

  void expert(const std::string& module, std::size_t rows, std::size_t cols) {
    if (quant_ == SynthQuant::kInt4) return add_int4(module, rows, cols);
    linear(module, rows, cols);
  }

  std::vector<SynthTensor> take() { return std::move(table_); }

 private:
  static float deviation(std::size_t inputs) {
    return 1.0f / std::sqrt(static_cast<float>(inputs));
  }

  void add_bf16(const std::string& module, std::size_t rows, std::size_t cols, SynthFill fill) {
    CHECK(fill != SynthFill::kNormalInt8 || cols % kernels::kGroup == 0);
    table_.push_back({.name = module + ".weight",
                      .shape = {rows, cols},
                      .fill = fill,
                      .deviation = deviation(cols)});
  }

  void add_fp8(const std::string& module, std::size_t rows, std::size_t cols) {
    const auto blocks = [](std::size_t size) {
      return (size + kernels::kFp8BlockSize - 1) / kernels::kFp8BlockSize;
    };
    table_.push_back({.name = module + ".weight",
                      .dtype = DType::kF8E4M3,
                      .shape = {rows, cols},
                      .fill = SynthFill::kFp8,
                      .deviation = deviation(cols)});
    table_.push_back({.name = module + ".weight_scale_inv",
                      .dtype = DType::kF32,
                      .shape = {blocks(rows), blocks(cols)},
                      .fill = SynthFill::kFp8Scale,
                      .deviation = deviation(cols)});
  }

  void add_int4(const std::string& module, std::size_t rows, std::size_t cols) {
    CHECK(cols % kernels::kGroup == 0);
    table_.push_back({.name = module + ".weight_packed",
                      .dtype = DType::kI32,
                      .shape = {rows, cols / 8},
                      .fill = SynthFill::kInt4,
                      .deviation = deviation(cols)});
    table_.push_back({.name = module + ".weight_scale",
                      .shape = {rows, cols / kernels::kGroup},
                      .fill = SynthFill::kInt4Scale,
                      .deviation = deviation(cols)});
    table_.push_back(
        {.name = module + ".weight_shape",
         .dtype = DType::kI32,
         .shape = {2},
         .fill = SynthFill::kShape,
         .logical = {static_cast<std::int32_t>(rows), static_cast<std::int32_t>(cols)}});
  }

  SynthQuant quant_;
  std::vector<SynthTensor> table_;
};

void add_grouped_attention(const model::ModelConfig& c, const std::string& attention,
                           TableWriter& out) {
  out.linear(attention + "q_proj", c.n_heads * c.qk_head_dim(), c.hidden_size);
  out.linear(attention + "k_proj", c.n_kv_heads * c.qk_head_dim(), c.hidden_size);
  out.linear(attention + "v_proj", c.n_kv_heads * c.v_head_dim, c.hidden_size);
  out.norm(attention + "q_norm.weight", c.qk_head_dim());
  out.norm(attention + "k_norm.weight", c.qk_head_dim());
  out.linear(attention + "o_proj", c.hidden_size, c.n_heads * c.v_head_dim);
}

void add_attention(const model::ModelConfig& c, const std::string& layer, TableWriter& out) {
  const std::string attention = layer + "self_attn.";
  if (c.is_grouped()) return add_grouped_attention(c, attention, out);
  const std::size_t q_rows = c.n_heads * c.qk_head_dim();
  if (c.q_lora_rank == 0) {
    out.linear(attention + "q_proj", q_rows, c.hidden_size);
  } else {
    out.linear(attention + "q_a_proj", c.q_lora_rank, c.hidden_size);
    out.norm(attention + "q_a_layernorm.weight", c.q_lora_rank);
    out.linear(attention + "q_b_proj", q_rows, c.q_lora_rank);
  }
  out.linear(attention + "kv_a_proj_with_mqa", c.kv_width(), c.hidden_size);
  out.norm(attention + "kv_a_layernorm.weight", c.kv_lora_rank);
  out.linear(attention + "kv_b_proj", c.n_heads * (c.qk_nope_head_dim + c.v_head_dim),
             c.kv_lora_rank);
  out.linear(attention + "o_proj", c.hidden_size, c.n_heads * c.v_head_dim);
}

void add_moe(const model::ModelConfig& c, const std::string& mlp, TableWriter& out) {
  out.plain(mlp + "gate", c.n_experts, c.hidden_size);
  if (c.router == model::RouterKind::kSigmoidBiased) {
    out.bias(mlp + "gate.e_score_correction_bias", c.n_experts);
  }
  for (std::size_t e = 0; e < c.n_experts; ++e) {
    const std::string expert = fmt::format("{}experts.{}.", mlp, e);
    out.expert(expert + "gate_proj", c.moe_intermediate_size, c.hidden_size);
    out.expert(expert + "up_proj", c.moe_intermediate_size, c.hidden_size);
    out.expert(expert + "down_proj", c.hidden_size, c.moe_intermediate_size);
  }
  if (c.n_shared_experts == 0) return;
  const std::string shared = mlp + "shared_experts.";
  out.linear(shared + "gate_proj", c.shared_intermediate_size(), c.hidden_size);
  out.linear(shared + "up_proj", c.shared_intermediate_size(), c.hidden_size);
  out.linear(shared + "down_proj", c.hidden_size, c.shared_intermediate_size());
}

}  // namespace

std::uint64_t SynthTensor::size_bytes() const {
  std::uint64_t elements = 1;
  for (const std::size_t extent : shape) elements *= extent;
  return elements * formats::size_bytes(dtype);
}

std::vector<SynthTensor> tensor_table(const SynthModel& model) {
  const model::ModelConfig& c = model.config;
  TableWriter out(model.quant);
  out.plain("model.embed_tokens", c.vocab_size, c.hidden_size);
  out.head("lm_head", c.vocab_size, c.hidden_size);
  out.norm("model.norm.weight", c.hidden_size);
  for (std::size_t i = 0; i < c.n_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    out.norm(layer + "input_layernorm.weight", c.hidden_size);
    add_attention(c, layer, out);
    out.norm(layer + "post_attention_layernorm.weight", c.hidden_size);
    const std::string mlp = layer + "mlp.";
    if (c.is_moe(LayerId{static_cast<std::uint16_t>(i)})) {
      add_moe(c, mlp, out);
    } else {
      out.linear(mlp + "gate_proj", c.intermediate_size, c.hidden_size);
      out.linear(mlp + "up_proj", c.intermediate_size, c.hidden_size);
      out.linear(mlp + "down_proj", c.hidden_size, c.intermediate_size);
    }
  }
  return out.take();
}

}  // namespace conclave::apps
