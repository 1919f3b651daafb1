#include "apps/plan_json.h"

#include "apps/plan_options.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

Json model_json(const plan::Model& model) {
  Json json;
  json["name"] = model.architecture.name;
  json["quant"] = model.quant.name;
  json["stored_bytes"] = plan::stored_bytes(model);
  json["read_bytes_per_token"] = plan::read_bytes(model);
  json["kv_bytes_per_token"] = plan::kv_bytes_per_token(model);
  json["parts"] = Json::array();
  for (std::size_t i = 0; i < plan::kParts; ++i) {
    const auto part = static_cast<plan::Part>(i);
    Json entry;
    entry["part"] = plan::name_of(part);
    entry["format"] = plan::name_of(model.quant.of(part).format);
    entry["bytes_per_parameter"] = model.quant.of(part).bytes_per_parameter;
    entry["stored_bytes"] = plan::stored_bytes(model, part);
    entry["read_bytes_per_token"] = plan::read_bytes(model, part);
    json["parts"].push_back(std::move(entry));
  }
  return json;
}

Json machine_json(const plan::Machine& machine) {
  Json json;
  json["name"] = machine.name;
  json["title"] = machine.title;
  json["device"] = plan::name_of(machine.device);
  json["memory_bytes"] = machine.memory_bytes;
  json["usable_bytes"] = machine.usable_bytes;
  json["peak_bandwidth_bytes_per_second"] = machine.peak_bandwidth;
  json["efficiency"] = machine.efficiency;
  json["prefill_flops"] = machine.prefill_flops;
  json["idle_watts"] = machine.idle_watts;
  json["load_watts"] = machine.load_watts;
  json["price_usd"] = machine.price_usd;
  return json;
}

Json link_json(const plan::Link& link) {
  Json json;
  json["name"] = link.name;
  json["title"] = link.title;
  json["transport"] = plan::name_of(link.transport);
  json["latency_seconds"] = link.latency_seconds;
  json["jitter_seconds"] = link.jitter_seconds;
  json["bandwidth_bytes_per_second"] = link.bandwidth;
  return json;
}

Json pool_json(const plan::Pool& pool) {
  Json json;
  json["machines"] = Json::array();
  for (const plan::Machine& machine : pool.machines) {
    json["machines"].push_back(machine_json(machine));
  }
  json["link"] = pool.link ? link_json(*pool.link) : Json();
  json["pairs"] = Json::array();
  for (const plan::PairLink& pair : pool.pairs) {
    Json entry;
    entry["a"] = pool.machines[pair.a].name;
    entry["b"] = pool.machines[pair.b].name;
    entry["link"] = link_json(pair.link);
    json["pairs"].push_back(std::move(entry));
  }
  json["topology"] = topology_name(pool.topology);
  return json;
}

Json workload_json(const plan::Workload& workload) {
  Json json;
  json["batch"] = workload.batch;
  json["context_tokens"] = workload.context;
  json["prompt_tokens"] = workload.prompt;
  json["reserve_tokens"] = workload.reserve_tokens;
  json["zipf"] = workload.zipf;
  json["draft_tokens"] = workload.speculation.draft_tokens;
  json["accepted_tokens_per_step"] = workload.speculation.accepted;
  return json;
}

Json placement_json(const plan::Cluster& cluster, const plan::Placement& placement) {
  Json json;
  json["strategy"] = plan::name_of(placement.strategy);
  json["attention_replicated"] = placement.attention_replicated;
  json["expert_copies"] = placement.expert_copies;
  json["losses_survived"] = placement.losses_survived;
  json["losses_replanned"] = placement.losses_replanned;
  json["ranks"] = Json::array();
  for (const plan::Rank& rank : placement.ranks) {
    Json entry;
    entry["machine"] = cluster.pool.machines[rank.machine].name;
    entry["share"] = rank.share;
    entry["heads"] = rank.n_heads;
    entry["expert_units"] = rank.expert_units;
    entry["vocab_units"] = rank.vocab_units;
    entry["experts"] = rank.n_experts;
    entry["first_layer"] = rank.first_layer;
    entry["layers"] = rank.n_layers;
    entry["weight_bytes"] = rank.weight_bytes;
    entry["kv_bytes"] = rank.kv_bytes;
    entry["backup_bytes"] = rank.backup_bytes;
    entry["free_bytes"] = rank.free_bytes;
    json["ranks"].push_back(std::move(entry));
  }
  return json;
}

Json prediction_json(const plan::Prediction& prediction) {
  const plan::TimeSplit& split = prediction.split;
  Json json;
  json["tokens_per_second"] = prediction.tokens_per_second;
  json["stream_tokens_per_second"] = prediction.stream_tokens_per_second;
  json["slow_tokens_per_second"] = prediction.slow_tokens_per_second;
  json["step_seconds"] = prediction.step_seconds;
  json["split_seconds"] = {{"memory", split.memory},     {"imbalance", split.imbalance},
                           {"compute", split.compute},   {"kv", split.kv},
                           {"dispatch", split.dispatch}, {"exchange", split.exchange},
                           {"draft", split.draft}};
  json["exchange_seconds"] = prediction.exchange_seconds;
  json["rounds"] = prediction.rounds;
  json["wire_bytes_per_token"] = prediction.wire_bytes_per_token;
  json["roofline_tokens_per_second"] = prediction.roofline_tokens_per_second;
  json["roofline_share"] = prediction.tokens_per_second / prediction.roofline_tokens_per_second;
  json["prefill_tokens_per_second"] = prediction.prefill_tokens_per_second;
  json["first_token_seconds"] = prediction.first_token_seconds;
  json["watts"] = prediction.watts;
  json["joules_per_token"] = prediction.joules_per_token;
  json["usd_per_million_tokens"] = prediction.usd_per_million_tokens;
  json["price_usd"] = prediction.price_usd;
  return json;
}

Json explanation_json(const plan::Explanation& explanation) {
  Json json;
  json["constraint"] = explanation.constraint;
  json["strategy_reason"] = explanation.strategy_reason;
  json["improvements"] = Json::array();
  for (const plan::Improvement& better : explanation.improvements) {
    json["improvements"].push_back(
        {{"change", better.change}, {"tokens_per_second", better.tokens_per_second}});
  }
  json["measured_share"] = explanation.measured_share ? Json(*explanation.measured_share) : Json();
  json["software_bound"] = explanation.software_bound;
  return json;
}

Json events_json(const plan::EventPrediction& events) {
  Json json;
  json["tokens_per_second"] = events.tokens_per_second;
  json["p50_seconds"] = events.p50_seconds;
  json["p95_seconds"] = events.p95_seconds;
  json["wait_share"] = events.wait_share;
  json["messages"] = events.n_messages;
  json["finished"] = events.finished;
  json["token_seconds"] = events.token_seconds;
  return json;
}

Json quants_json(const plan::CatalogueModel& model) {
  Json json = Json::array();
  for (const plan::Quant& quant : model.quants) {
    const plan::Model whole{model.architecture, quant};
    json.push_back({{"name", quant.name},
                    {"stored_bytes", plan::stored_bytes(whole)},
                    {"read_bytes_per_token", plan::read_bytes(whole)}});
  }
  return json;
}

}  // namespace

Json to_json(const Outcome& outcome) {
  const plan::Cluster& cluster = outcome.cluster;
  Json json;
  json["cluster"] = cluster.name;
  json["fits"] = outcome.fits();
  json["missing"] = outcome.fits() ? Json() : Json(outcome.missing);
  json["machines_needed"] = outcome.machines_needed == 0 ? Json() : Json(outcome.machines_needed);
  json["assumed"] = outcome.notes;
  json["model"] = model_json(cluster.model);
  json["software"] = cluster.software.name;
  json["workload"] = workload_json(cluster.workload);
  json["pool"] = pool_json(cluster.pool);
  json["measured_tokens_per_second"] =
      cluster.measured_tokens_per_second ? Json(*cluster.measured_tokens_per_second) : Json();
  if (!outcome.plan) return json;
  json["placement"] = placement_json(cluster, outcome.plan->placement);
  json["prediction"] = prediction_json(outcome.plan->prediction);
  json["prediction_batch_1"] = prediction_json(outcome.plan->single);
  json["explanation"] = explanation_json(outcome.plan->explanation);
  if (outcome.events) json["events"] = events_json(*outcome.events);
  return json;
}

Json to_json(const plan::Catalogue& catalogue) {
  Json json;
  json["machines"] = Json::array();
  for (const plan::Machine& machine : catalogue.machines) {
    json["machines"].push_back(machine_json(machine));
  }
  json["links"] = Json::array();
  for (const plan::Link& link : catalogue.links) json["links"].push_back(link_json(link));
  json["models"] = Json::array();
  for (const plan::CatalogueModel& model : catalogue.models) {
    json["models"].push_back({{"name", model.architecture.name},
                              {"title", model.title},
                              {"quants", quants_json(model)}});
  }
  json["software"] = Json::array();
  for (const plan::Software& software : catalogue.software) {
    json["software"].push_back({{"name", software.name}, {"title", software.title}});
  }
  return json;
}

std::string json_text(const Json& json) {
  return json.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

}  // namespace conclave::apps
