#include "sim_host.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "cluster/facts.h"

namespace conclave::cluster_sim {
namespace {

// A backend whose operations take virtual time.
class TimedBackend final : public backend::Backend {
 public:
  TimedBackend(std::unique_ptr<backend::Backend> inner, const SimTimes& times, Process& process,
               const AtPhase& reached)
      : inner_(std::move(inner)), times_(times), process_(process), reached_(reached) {}

  const model::ModelConfig& config() const override { return inner_->config(); }
  const backend::Limits& limits() const override { return inner_->limits(); }
  std::string describe() const override { return inner_->describe(); }
  void embed(const backend::Step& step) override {
    look_at(step);
    inner_->embed(step);
  }
  void begin(const backend::Step& step, std::span<const float> residual) override {
    look_at(step);
    inner_->begin(step, residual);
  }
  std::span<float> hidden() override { return inner_->hidden(); }
  void attention(LayerId layer) override {
    spend();
    inner_->attention(layer);
  }
  backend::Routing route(LayerId layer, std::span<const ExpertId> forced) override {
    return inner_->route(layer, forced);
  }
  void set_routing(LayerId layer, const backend::Routing& routing) override {
    inner_->set_routing(layer, routing);
  }
  void feed_forward(LayerId layer) override {
    spend();
    inner_->feed_forward(layer);
  }
  std::span<const float> partial(std::size_t i) override { return inner_->partial(i); }
  void add_partial() override { inner_->add_partial(); }
  void head() override { inner_->head(); }
  std::span<const float> logits(std::size_t i) override { return inner_->logits(i); }
  std::span<const model::Slice> slices() const override { return inner_->slices(); }
  void activate(std::span<const std::size_t> slices) override { inner_->activate(slices); }
  std::span<const std::size_t> active() const override { return inner_->active(); }

 private:
  void look_at(const backend::Step& step) {
    n_rows_ = static_cast<std::int64_t>(step.tokens.size());
    prefill_ = std::ranges::any_of(
        step.sequences, [](const auto& rows) { return rows.n_rows > 1 && !rows.decode; });
  }
  void spend() {
    if (reached_(prefill_ ? Phase::kPrefill : Phase::kDecode)) process_.pause();
    process_.compute(times_.operation + times_.row * n_rows_);
  }

  std::unique_ptr<backend::Backend> inner_;
  const SimTimes& times_;
  Process& process_;
  const AtPhase& reached_;
  std::int64_t n_rows_ = 0;
  bool prefill_ = false;
};

}  // namespace

void SimHost::want(const wire::pb::Assignment& assignment) {
  if (!assignment.has_layout()) return;
  wire::pb::Assignment without = assignment;
  without.clear_epoch();
  without.clear_kill_worker();
  if (wanted_ && wanted_->SerializeAsString() == without.SerializeAsString()) return;
  wanted_ = std::move(without);
  changed_ = true;
  if (loader_ != nullptr) loader_->wake();
}

// --- the loading process ----------------------------------------------------------------------

void SimHost::load_forever(Process& self) {
  loader_ = &self;
  for (;;) {
    while (!std::exchange(changed_, false)) self.wait(Time::max());
    const wire::pb::Assignment assignment = *wanted_;
    load(self, assignment);
  }
}

void SimHost::spend(Process& self, Duration duration) {
  constexpr int kParts = 4;
  for (int part = 0; part < kParts; ++part) {
    if (around_.reached(Phase::kLoad)) self.pause();
    self.compute(duration / kParts);
    ++around_.pulse.progress;
  }
}

void SimHost::take_kv(const cluster::Layout& layout) {
  if (around_.memory.kv) return;  // of an earlier worker: all layouts of a pool have one size
  around_.memory.kv = around_.model.make_kv(layout);
  around_.memory.kv->id = around_.new_kv_id();
}

void SimHost::load(Process& self, const wire::pb::Assignment& assignment) {
  std::shared_ptr<Loaded> loaded = loaded_;
  if (!loaded || loaded->layout.id != assignment.layout().id()) {
    loaded = std::make_shared<Loaded>();
    Result<cluster::Layout> layout = cluster::from_message(assignment.layout());
    CHECK(layout);
    loaded->layout = std::move(*layout);
    loaded->embedding = assignment.embedding();
    take_kv(loaded->layout);
    if (!around_.memory.common) spend(self, around_.times.load_common);
    around_.memory.common = true;
  }
  loaded_ = loaded;
  forget_unwanted(assignment);
  std::vector<std::size_t> todo;
  for (const std::uint32_t v : assignment.hold()) {
    if (!loaded->slices.contains(v)) todo.push_back(v);
  }
  const auto there = [&](std::size_t v) {
    return around_.memory.slices.contains(name_of(loaded->layout.virtual_ranks[v].slice));
  };
  // What earlier workers left complete is there at once: the head should not take it for missing.
  std::stable_partition(todo.begin(), todo.end(), there);
  bool told = false;
  for (const std::size_t v : todo) {
    if (changed_) break;
    if (!there(v)) {
      if (!std::exchange(told, true)) send_held();
      const auto bytes = static_cast<double>(loaded->layout.virtual_ranks[v].weight_bytes);
      spend(self, sim::from_seconds(bytes / around_.times.load_bytes_per_second));
    }
    around_.memory.slices.insert(name_of(loaded->layout.virtual_ranks[v].slice));
    loaded->slices.insert(v);
    if (told) send_held();
  }
  send_held();
  drop_unused(assignment);
}

// Virtual ranks that others hold now, except those that this rank computes.
void SimHost::forget_unwanted(const wire::pb::Assignment& assignment) {
  std::erase_if(loaded_->slices, [&](std::size_t v) {
    return std::ranges::find(assignment.hold(), v) == assignment.hold().end() &&
           std::ranges::find(active_, v) == active_.end();
  });
}

void SimHost::drop_unused(const wire::pb::Assignment& assignment) {
  std::set<std::string> used;
  for (const std::uint32_t v : assignment.hold()) {
    used.insert(name_of(loaded_->layout.virtual_ranks[v].slice));
  }
  for (const std::size_t v : loaded_->slices) {
    used.insert(name_of(loaded_->layout.virtual_ranks[v].slice));
  }
  std::erase_if(around_.memory.slices, [&](const auto& name) { return !used.contains(name); });
}

void SimHost::send_held() {
  wire::pb::FromWorker message;
  wire::pb::Held* held = message.mutable_held();
  held->set_layout(loaded_->layout.id);
  for (const std::size_t v : loaded_->slices) {
    held->add_virtual_ranks(static_cast<std::uint32_t>(v));
  }
  held->set_backend("simulated");
  held->set_context_max(around_.context_max);
  held->set_kv(around_.memory.kv->id);
  *held->mutable_data() = cluster::to_message(around_.data);
  static_cast<void>(around_.control.send(message));
}

// --- the worker's process ---------------------------------------------------------------------

Result<backend::Backend*> SimHost::activate(std::span<const std::size_t> virtual_ranks) {
  if (!loaded_) return not_found("no model is in memory");
  if (computing_ != loaded_) {
    backend_ = std::make_unique<TimedBackend>(
        around_.model.make_backend(loaded_->layout, loaded_->embedding, *around_.memory.kv),
        around_.times, main_, around_.reached);
    computing_ = loaded_;
  }
  for (const std::size_t v : virtual_ranks) {
    if (!loaded_->slices.contains(v)) {
      return not_found("virtual rank " + std::to_string(v) + " is not in memory");
    }
  }
  backend_->activate(virtual_ranks);  // its slices are the virtual ranks
  active_.assign(virtual_ranks.begin(), virtual_ranks.end());
  return backend_.get();
}

engine::Division SimHost::division() const { return division_of(computing_->layout); }

}  // namespace conclave::cluster_sim
