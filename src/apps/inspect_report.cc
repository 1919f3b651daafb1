#include "apps/inspect_report.h"

#include <fmt/format.h>

#include <iterator>

#include "apps/terminal.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

std::string_view router_name(model::RouterKind router) {
  switch (router) {
    case model::RouterKind::kSigmoidBiased:
      return "sigmoid with selection bias";
    case model::RouterKind::kSoftmaxGreedy:
      return "softmax";
    case model::RouterKind::kSoftmaxGroupLimited:
      return "softmax, limited to groups";
  }
  return "unknown";
}

std::string attention_text(const model::ModelConfig& c) {
  if (c.is_grouped()) {
    return fmt::format("grouped, {} heads of {}, {} KV heads", c.n_heads, c.v_head_dim,
                       c.n_kv_heads);
  }
  return fmt::format("MLA, {} heads of {}+{}, values of {}, latent {}, query {}", c.n_heads,
                     c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank,
                     c.q_lora_rank == 0 ? "full" : fmt::format("rank {}", c.q_lora_rank));
}

std::string shape_text(const model::ModelConfig& c) {
  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "  layers      {} ({} dense, {} with experts)\n", c.n_layers,
                 c.n_layers - c.n_moe_layers(), c.n_moe_layers());
  fmt::format_to(out, "  hidden      {}\n", c.hidden_size);
  fmt::format_to(out, "  attention   {}\n", attention_text(c));
  fmt::format_to(out, "  experts     {} of width {}, {} per token, {} shared\n", c.n_experts,
                 c.moe_intermediate_size, c.experts_per_token, c.n_shared_experts);
  fmt::format_to(out, "  router      {}, scale {}\n", router_name(c.router),
                 c.routed_scaling_factor);
  fmt::format_to(out, "  vocabulary  {}\n", c.vocab_size);
  fmt::format_to(out, "  context     {} tokens\n", c.max_positions);
  return text;
}

std::string row_text(const model::PartBytes& part) {
  return fmt::format("{:<22} {:<12} {:>18} {:>12} {:>12} {:>15}\n", part.part, part.format,
                     part.parameters, human_bytes(part.file_bytes), human_bytes(part.kept_bytes),
                     human_bytes(part.read_per_token));
}

Json part_json(const model::PartBytes& part) {
  Json json;
  json["part"] = part.part;
  json["format"] = part.format;
  json["parameters"] = part.parameters;
  json["file_bytes"] = part.file_bytes;
  json["kept_bytes"] = part.kept_bytes;
  json["read_per_token"] = part.read_per_token;
  return json;
}

}  // namespace

model::PartBytes total_of(const model::ModelReport& report) {
  model::PartBytes total;
  total.part = "total";
  for (const model::PartBytes& part : report.parts) {
    total.parameters += part.parameters;
    total.file_bytes += part.file_bytes;
    total.kept_bytes += part.kept_bytes;
    total.read_per_token += part.read_per_token;
  }
  return total;
}

std::string to_text(const InspectReport& report) {
  const model::ModelConfig& c = report.config;
  std::string text = fmt::format("{}: {} ({})\n", report.dir, c.model_type, c.architecture);
  text += shape_text(c);
  text += fmt::format("\n{:<22} {:<12} {:>18} {:>12} {:>12} {:>15}\n", "part", "format",
                      "parameters", "in file", "in memory", "read per token");
  for (const model::PartBytes& part : report.model.parts) text += row_text(part);
  text += row_text(total_of(report.model));
  text += fmt::format(
      "\nKV cache {} per token, {} at {} tokens\n", human_bytes(report.model.kv_bytes_per_token),
      human_bytes(report.model.kv_bytes_per_token * c.max_positions), c.max_positions);
  if (report.ignored_tensors != 0) {
    text += fmt::format("{} tensors that text needs not are left out\n", report.ignored_tensors);
  }
  return text;
}

Json to_json(const InspectReport& report) {
  const model::ModelConfig& c = report.config;
  Json json;
  json["dir"] = report.dir;
  json["architecture"] = c.architecture;
  json["model_type"] = c.model_type;
  json["weights"] = report.weights;
  json["layers"] = c.n_layers;
  json["moe_layers"] = c.n_moe_layers();
  json["hidden"] = c.hidden_size;
  json["heads"] = c.n_heads;
  json["experts"] = c.n_experts;
  json["experts_per_token"] = c.experts_per_token;
  json["shared_experts"] = c.n_shared_experts;
  json["vocabulary"] = c.vocab_size;
  json["context"] = c.max_positions;
  json["parts"] = Json::array();
  for (const model::PartBytes& part : report.model.parts) json["parts"].push_back(part_json(part));
  json["total"] = part_json(total_of(report.model));
  json["kv_bytes_per_token"] = report.model.kv_bytes_per_token;
  json["ignored_tensors"] = report.ignored_tensors;
  return json;
}

}  // namespace conclave::apps
