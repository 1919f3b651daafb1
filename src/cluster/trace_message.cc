#include "cluster/trace_message.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace conclave::cluster {
namespace {

using Json = nlohmann::ordered_json;

Json step_json(const wire::pb::TracedStep& step) {
  Json json{{"number", step.number()},
            {"rows", step.rows()},
            {"total_us", step.total_ns() / 1e3},
            {"begin_us", step.begin_ns() / 1e3},
            {"head_us", step.head_ns() / 1e3}};
  // By operation, one number a layer.
  Json attention = Json::array();
  Json feed_forward = Json::array();
  Json exchange = Json::array();
  Json wait = Json::array();
  for (const wire::pb::TracedLayer& layer : step.layers()) {
    attention.push_back(layer.attention_ns() / 1e3);
    feed_forward.push_back(layer.feed_forward_ns() / 1e3);
    exchange.push_back((layer.attention_exchange_ns() + layer.feed_forward_exchange_ns()) / 1e3);
    wait.push_back((layer.attention_wait_ns() + layer.feed_forward_wait_ns()) / 1e3);
  }
  json["attention_us"] = std::move(attention);
  json["feed_forward_us"] = std::move(feed_forward);
  json["exchange_us"] = std::move(exchange);
  json["wait_us"] = std::move(wait);
  return json;
}

// Means of the steps with one row.
Json decode_json(const wire::pb::Trace& trace) {
  double steps = 0.0;
  double total = 0.0;
  double attention = 0.0;
  double feed_forward = 0.0;
  double exchange = 0.0;
  double wait = 0.0;
  for (const wire::pb::TracedStep& step : trace.steps()) {
    if (step.rows() != 1) continue;
    steps += 1.0;
    total += step.total_ns() / 1e3;
    for (const wire::pb::TracedLayer& layer : step.layers()) {
      attention += layer.attention_ns() / 1e3;
      feed_forward += layer.feed_forward_ns() / 1e3;
      exchange += (layer.attention_exchange_ns() + layer.feed_forward_exchange_ns()) / 1e3;
      wait += (layer.attention_wait_ns() + layer.feed_forward_wait_ns()) / 1e3;
    }
  }
  if (steps == 0.0) return nullptr;
  return {{"steps", steps},
          {"step_us", total / steps},
          {"attention_us", attention / steps},
          {"feed_forward_us", feed_forward / steps},
          {"exchange_us", exchange / steps},
          {"wait_us", wait / steps}};
}

Json rank_json(const wire::pb::Trace& trace) {
  Json json{{"rank", trace.rank()},
            {"epoch", trace.epoch()},
            {"steps_in_all", trace.n_steps()},
            {"exchanges", trace.exchanges()},
            {"rounds", trace.rounds()},
            {"repairs", trace.repairs()},
            {"decode", decode_json(trace)}};
  json["links"] = Json::array();
  for (const wire::pb::TracedLink& link : trace.links()) {
    json["links"].push_back({{"rank", link.rank()},
                             {"messages_sent", link.messages_sent()},
                             {"bytes_sent", link.bytes_sent()},
                             {"messages_received", link.messages_received()},
                             {"bytes_received", link.bytes_received()}});
  }
  json["experts_per_layer"] = trace.n_experts();
  json["expert_counts"] = trace.expert_counts();
  json["steps"] = Json::array();
  for (const wire::pb::TracedStep& step : trace.steps()) json["steps"].push_back(step_json(step));
  return json;
}

}  // namespace

wire::pb::Trace to_message(const engine::StepTrace& trace, std::size_t steps_max) {
  wire::pb::Trace out;
  out.set_n_steps(trace.n_steps());
  const std::vector<engine::StepTimes> steps = trace.steps();
  const std::size_t n = std::min({steps.size(), steps_max, kTraceStepsMax});
  for (std::size_t i = steps.size() - n; i < steps.size(); ++i) {
    wire::pb::TracedStep* step = out.add_steps();
    step->set_number(steps[i].number);
    step->set_rows(steps[i].rows);
    step->set_begin_ns(steps[i].begin_ns);
    step->set_head_ns(steps[i].head_ns);
    step->set_total_ns(steps[i].total_ns);
    for (const engine::LayerTimes& times : trace.layers(steps[i])) {
      wire::pb::TracedLayer* layer = step->add_layers();
      layer->set_attention_ns(times.attention);
      layer->set_attention_exchange_ns(times.attention_exchange);
      layer->set_attention_wait_ns(times.attention_wait);
      layer->set_feed_forward_ns(times.feed_forward);
      layer->set_feed_forward_exchange_ns(times.feed_forward_exchange);
      layer->set_feed_forward_wait_ns(times.feed_forward_wait);
    }
  }
  for (const std::uint64_t count : trace.expert_counts()) out.add_expert_counts(count);
  out.set_n_experts(static_cast<std::uint32_t>(trace.n_experts()));
  return out;
}

void add_links(const transport::Transport& transport, wire::pb::Trace& out) {
  for (std::size_t rank = 0; rank < transport.n_ranks(); ++rank) {
    if (rank == transport.rank()) continue;
    const transport::LinkStats& stats = transport.stats()[rank];
    wire::pb::TracedLink* link = out.add_links();
    link->set_rank(static_cast<std::uint32_t>(rank));
    link->set_messages_sent(stats.messages_sent);
    link->set_bytes_sent(stats.bytes_sent);
    link->set_messages_received(stats.messages_received);
    link->set_bytes_received(stats.bytes_received);
  }
}

void add_exchanges(const collective::GroupStats& stats, wire::pb::Trace& out) {
  out.set_exchanges(stats.exchanges);
  out.set_rounds(stats.rounds);
  out.set_repairs(stats.repairs);
}

std::string trace_json(const std::vector<wire::pb::Trace>& traces) {
  Json json;
  json["ranks"] = Json::array();
  for (const wire::pb::Trace& trace : traces) json["ranks"].push_back(rank_json(trace));
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace conclave::cluster
