#include "cluster/facts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cluster/bulk_messages.h"

namespace conclave::cluster {
namespace {

constexpr std::size_t kNameMax = 64;
constexpr std::uint32_t kPortMax = 65535;
constexpr int kModelsMax = 4096;         // whose files one machine has
constexpr int kHeldMax = 4096;           // virtual ranks: more than a layout has
constexpr std::size_t kHostIdMax = 128;  // characters
constexpr double kBytesMax = 1e15;
constexpr double kRateMax = 1e15;
constexpr double kFlopsMax = 1e18;

// What a machine that nobody has measured is taken for.
constexpr double kUnknownBandwidth = 20e9;
constexpr double kUnknownFlops = 1e11;

double within(double value, double lowest, double highest) {
  return std::isfinite(value) ? std::clamp(value, lowest, highest) : lowest;
}

std::string name_from(const std::string& name) {
  std::string text;
  for (const char c : name.substr(0, kNameMax)) {
    if (c > ' ' && c < 127) text.push_back(c);
  }
  return text.empty() ? "node" : text;
}

}  // namespace

wire::pb::MachineFacts to_message(const plan::Machine& machine) {
  wire::pb::MachineFacts facts;
  facts.set_name(machine.name);
  facts.set_memory_bytes(static_cast<std::uint64_t>(machine.memory_bytes));
  facts.set_usable_bytes(static_cast<std::uint64_t>(machine.usable_bytes));
  facts.set_peak_bandwidth(machine.peak_bandwidth);
  facts.set_efficiency(machine.efficiency);
  facts.set_prefill_flops(machine.prefill_flops);
  facts.set_cache_bytes(machine.cache_bytes);
  for (const double rate : machine.gemv_bandwidth) facts.add_gemv_bandwidth(rate);
  for (const double rate : machine.cache_gemv_bandwidth) facts.add_cache_gemv_bandwidth(rate);
  facts.set_dispatch_seconds(machine.dispatch_seconds);
  facts.set_step_seconds(machine.step_seconds);
  facts.set_expert_seconds(machine.expert_seconds);
  facts.set_unsteadiness(machine.unsteadiness);
  return facts;
}

plan::Machine machine_from(const wire::pb::MachineFacts& facts) {
  plan::Machine machine;
  machine.name = name_from(facts.name());
  machine.title = machine.name;
  machine.device = plan::DeviceClass::kCpu;
  machine.memory_bytes = within(static_cast<double>(facts.memory_bytes()), 1.0, kBytesMax);
  machine.usable_bytes =
      within(static_cast<double>(facts.usable_bytes()), 1.0, machine.memory_bytes);
  const auto known = [](double value, double otherwise) { return value > 0.0 ? value : otherwise; };
  machine.peak_bandwidth = within(known(facts.peak_bandwidth(), kUnknownBandwidth), 1e6, kRateMax);
  machine.efficiency = within(known(facts.efficiency(), 0.8), 0.01, 1.0);
  machine.prefill_flops = within(known(facts.prefill_flops(), kUnknownFlops), 1e6, kFlopsMax);
  machine.cache_bytes = within(facts.cache_bytes(), 0.0, kBytesMax);
  const auto rates = [](const auto& from, auto& to, double peak) {
    for (std::size_t i = 0; i < to.size() && i < static_cast<std::size_t>(from.size()); ++i) {
      to[i] = within(from.Get(static_cast<int>(i)), 0.0, peak);
    }
  };
  rates(facts.gemv_bandwidth(), machine.gemv_bandwidth, machine.peak_bandwidth);
  rates(facts.cache_gemv_bandwidth(), machine.cache_gemv_bandwidth, kRateMax);
  machine.dispatch_seconds = within(facts.dispatch_seconds(), 0.0, 1.0);
  machine.expert_seconds = within(facts.expert_seconds(), 0.0, 1.0);
  machine.step_seconds = within(facts.step_seconds(), 0.0, 1.0);
  machine.unsteadiness = within(facts.unsteadiness(), 0.0, 1.0);
  return machine;
}

wire::pb::Endpoint to_message(const transport::Endpoint& endpoint) {
  wire::pb::Endpoint message;
  message.set_host(endpoint.host);
  message.set_port(endpoint.port);
  message.set_fingerprint(endpoint.fingerprint.data(), endpoint.fingerprint.size());
  message.set_clear(endpoint.clear);
  message.set_host_id(endpoint.host_id);
  return message;
}

Result<transport::Endpoint> from_message(const wire::pb::Endpoint& message) {
  transport::Endpoint endpoint;
  if (message.port() > kPortMax) {
    return corrupt("endpoint: port " + std::to_string(message.port()));
  }
  if (message.fingerprint().size() != endpoint.fingerprint.size()) {
    return corrupt("endpoint: a fingerprint of " + std::to_string(message.fingerprint().size()) +
                   " bytes");
  }
  endpoint.host = message.host();
  endpoint.port = static_cast<std::uint16_t>(message.port());
  std::memcpy(endpoint.fingerprint.data(), message.fingerprint().data(),
              endpoint.fingerprint.size());
  endpoint.clear = message.clear();
  endpoint.host_id = message.host_id();
  return endpoint;
}

std::string clean_text(const std::string& text) {
  std::string clean = printable(text.substr(0, kCleanTextMax));
  std::ranges::replace_if(
      clean, [](unsigned char c) { return c >= 0x80; }, '?');
  return clean;
}

Result<void> check(const wire::pb::Hello& hello) {
  if (hello.bulk_port() > kPortMax) {
    return corrupt("hello: port " + std::to_string(hello.bulk_port()));
  }
  if (hello.host_id().size() > kHostIdMax) return corrupt("hello: a machine's id that is none");
  if (hello.models_size() > kModelsMax) {
    return corrupt("hello: " + std::to_string(hello.models_size()) + " models");
  }
  return {};
}

Result<void> clean(wire::pb::Report& report) {
  if (report.held_size() > kHeldMax) {
    return corrupt("report: " + std::to_string(report.held_size()) + " virtual ranks");
  }
  if (report.data().host_id().size() > kHostIdMax) {
    return corrupt("report: a machine's id that is none");
  }
  report.set_error(clean_text(report.error()));
  report.set_backend(clean_text(report.backend()));
  if (report.has_broken()) {
    report.mutable_broken()->set_reason(clean_text(report.broken().reason()));
  }
  if (report.has_data()) TRY(from_message(report.data()));
  return {};
}

}  // namespace conclave::cluster
