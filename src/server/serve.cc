#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <utility>

#include "base/memory_size.h"
#include "base/rng.h"
#include "cluster/cluster.h"
#include "formats/formats.h"
#include "model/model.h"
#include "server/event_loop.h"
#include "server/http_server.h"
#include "server/server.h"
#include "server/service.h"
#include "text/text.h"

namespace conclave::server {
namespace {

constexpr std::uint64_t kMemoryUnknown = std::uint64_t{1} << 40;  // where the system does not say
constexpr std::size_t kContextsWanted = 16;               // of KV memory, when there is enough
constexpr Duration kFlushTime = std::chrono::seconds(1);  // for last bytes on the way out

// A connection takes a descriptor, and systems start processes with few.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::string hex(std::uint64_t value) {
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) {
    text.push_back("0123456789abcdef"[(value >> shift) & 15u]);
  }
  return text;
}

// Everything that is decided before a socket is opened.
struct Plan {
  ServeOptions options;  // with pages and context filled
  std::size_t vocab_size = 0;
  std::string fingerprint;
};

// Memory for KV pages: what a quarter of the machine beside the weights holds; in a pool, where the
// smallest machine decides and is not known yet, a tenth of the head's.
std::uint64_t kv_room(const model::ModelSource& source, const Plan& plan, std::uint64_t memory) {
  if (plan.options.pool) return memory / 10;
  const backend::CpuOptions& cpu = plan.options.cpu;
  const std::uint64_t weights =
      backend::cpu_common_bytes(source, true, cpu) +
      backend::cpu_slice_bytes(source, model::Slice::whole(source.config()), cpu);
  return weights >= memory ? 0 : (memory - weights) / 4;
}

Result<void> plan_memory(const model::ModelSource& source, Plan& plan) {
  backend::CpuOptions& cpu = plan.options.cpu;
  engine::EngineOptions& engine = plan.options.engine;
  double& usable = plan.options.machine.usable_bytes;
  double& total = plan.options.machine.memory_bytes;
  if (total <= 0.0) total = static_cast<double>(memory_size_bytes().value_or(kMemoryUnknown));
  if (usable <= 0.0 || usable > total) usable = total;
  const auto memory = static_cast<std::uint64_t>(usable);
  const std::uint64_t room = kv_room(source, plan, memory);
  if (room == 0) {
    return exhausted("the model's weights need more than the " + std::to_string(memory >> 20) +
                     " MiB that may be used here: try --weights int8, a machine with more memory, "
                     "or --pool with several machines");
  }
  std::size_t context = source.config().max_positions;
  if (engine.context_max > context) {
    return invalid_input("--context " + std::to_string(engine.context_max) +
                         ": the model's limit is " + std::to_string(context) + " tokens");
  }
  if (engine.context_max != 0) context = engine.context_max;
  if (cpu.limits.pages == 0) {
    const std::size_t page_bytes = backend::cpu_page_bytes(source.config(), cpu.exact);
    const std::size_t context_pages = (context + backend::kPageTokens - 1) / backend::kPageTokens;
    cpu.limits.pages = std::max<std::size_t>(
        1, std::min<std::uint64_t>(room / page_bytes, kContextsWanted * context_pages));
  }
  engine.context_max = std::min(context, cpu.limits.pages * backend::kPageTokens);
  if (engine.context_max < context) {
    spdlog::warn("context reduced tokens={} model={} reason=\"KV memory\"", engine.context_max,
                 context);
  }
  return {};
}

Result<Plan> make_plan(const ServeOptions& options) {
  Plan plan;
  plan.options = options;
  if (plan.options.model_id.empty()) plan.options.model_id = formats::model_name(options.model_dir);
  const model::ModelSource source = TRY(model::ModelSource::open(options.model_dir));
  plan.vocab_size = source.config().vocab_size;
  TRY(plan_memory(source, plan));
  std::uint64_t hash = hash_combine(source.fingerprint(), options.cpu.exact ? 1 : 0);
  hash = hash_combine(hash, static_cast<std::uint64_t>(options.cpu.weights));
  for (const char c : options.cpu.isa) hash = hash_combine(hash, static_cast<unsigned char>(c));
  plan.fingerprint = "conclave-" + hex(hash);
  return plan;
}

cluster::AgentOptions agent_options(const Plan& plan) {
  const ServeOptions& serve = plan.options;
  cluster::AgentOptions options;
  options.model_dir = serve.model_dir;
  options.worker = serve.worker;
  options.worker.isa = serve.cpu.isa;
  options.worker.threads = serve.cpu.threads;
  options.worker.engine = serve.engine;
  options.head.requests_max = serve.engine.requests_max;
  options.head.nodes_min = serve.nodes_min;
  options.head.cover_losses = serve.placer.cover_losses;
  if (!serve.pool) options.head.gather = Duration::zero();
  options.placer = serve.placer;
  options.placer.weights = serve.cpu.weights;
  options.placer.exact = serve.cpu.exact;
  options.placer.rows_max = serve.cpu.limits.rows_max;
  options.placer.pages = serve.cpu.limits.pages;
  options.machine = serve.machine;
  options.pool = serve.pool;
  return options;
}

ServiceOptions service_options(const Plan& plan) {
  std::random_device device;
  const std::uint64_t random = (std::uint64_t{device()} << 32) | device();
  return {.model_id = plan.options.model_id,
          .host = plan.options.host,
          .fingerprint = plan.fingerprint,
          .vocab_size = plan.vocab_size,
          .context_max = plan.options.engine.context_max,
          .requests_max = plan.options.engine.requests_max,
          .random_seed = random};
}

// The running server: ends in order, first the answers, then their bytes, then the loop.
class Running {
 public:
  Running(EventLoop& loop, Service& service, cluster::Agent& agent, HttpServer& http,
          const Clock& clock, Duration grace)
      : loop_(loop), service_(service), agent_(agent), http_(http), clock_(clock), grace_(grace) {}
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  void run() {
    loop_.watch(agent_.fd(), [this] { agent_.poll(); });
    loop_.every(std::chrono::milliseconds(50), [this] { on_tick(); });
    loop_.every(std::chrono::seconds(1), [this] { service_.on_tick(); });
    loop_.on_signal([this](int signal) { on_signal(signal); });
    loop_.post([this] { agent_.poll(); });
    loop_.run();
  }

 private:
  void on_signal(int signal) {
    spdlog::info("stopping signal={} open_answers={}", signal, service_.open_answers());
    if (deadline_) return loop_.stop();  // the second one
    stop_by(clock_.now() + grace_);
  }

  void stop_by(Time deadline) {
    deadline_ = deadline;
    service_.drain();
    http_.stop();
  }

  void on_tick() {
    agent_.poll();
    const Time now = clock_.now();
    if (agent_.status().state == cluster::AgentState::kFailed && !deadline_) stop_by(now);
    if (!deadline_) return;
    if (service_.open_answers() > 0 && now < *deadline_) return;
    service_.end_all({.status = 503,
                      .type = "unavailable_error",
                      .message = "the server is shutting down",
                      .param = {},
                      .code = "shutting_down"});
    if (!flushed_by_) flushed_by_ = now + kFlushTime;
    if (http_.connections() == 0 || now >= *flushed_by_) loop_.stop();
  }

  EventLoop& loop_;
  Service& service_;
  cluster::Agent& agent_;
  HttpServer& http_;
  const Clock& clock_;
  Duration grace_;
  std::optional<Time> deadline_;    // set: no new answers; those in progress end by then
  std::optional<Time> flushed_by_;  // set: all answers have ended
};

}  // namespace

Result<int> serve(const ServeOptions& options, const Clock& clock) {
  raise_descriptor_limit();
  const Plan plan = TRY(make_plan(options));
  const text::TextModel text = TRY(text::TextModel::load(options.model_dir, plan.vocab_size));

  // In this order: what is declared later uses what is declared earlier, and goes first.
  EventLoop loop;
  Service service(service_options(plan), text, clock, loop);
  const std::unique_ptr<cluster::Agent> agent =
      TRY(cluster::Agent::create(agent_options(plan), clock, service.agent_handlers()));
  service.attach(*agent);
  const std::unique_ptr<HttpServer> http =
      TRY(HttpServer::listen(loop, options.host, options.port, service, HttpLimits{}));
  spdlog::info("listening host={} port={} model={} context={} pages={}", options.host, http->port(),
               plan.options.model_id, plan.options.engine.context_max,
               plan.options.cpu.limits.pages);
  if (options.on_ready) options.on_ready(http->port(), agent->pool_port());

  Running(loop, service, *agent, *http, clock, options.shutdown_grace).run();
  const cluster::AgentStatus& status = agent->status();
  if (status.state == cluster::AgentState::kFailed) return unavailable(status.failure);
  return 0;
}

}  // namespace conclave::server
