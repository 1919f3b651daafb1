#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <system_error>
#include <utility>

#include "cluster/admin_socket.h"
#include "cluster/bulk_messages.h"
#include "cluster/cluster.h"
#include "cluster/discovery.h"
#include "cluster/facts.h"
#include "cluster/head_search.h"
#include "cluster/hot_experts.h"
#include "cluster/identity_memory.h"
#include "cluster/pool_doctor.h"
#include "cluster/pool_door.h"
#include "cluster/pool_json.h"
#include "cluster/trace_gather.h"
#include "cluster/weight_server.h"
#include "model/model.h"

namespace conclave::cluster {
namespace {

// Asks a worker for its counts of experts; answers to a trace's question have small ids.
constexpr std::uint64_t kCountsQuestion = std::numeric_limits<std::uint64_t>::max();
constexpr Duration kCountEvery = std::chrono::seconds(10);
constexpr std::size_t kCountsBytesMax = std::size_t{64} << 20;

std::uint64_t random_life() {
  std::random_device device;
  return (std::uint64_t{device()} << 32 | device()) | 1u;
}

wire::pb::Hello own_hello(const AgentOptions& options, std::uint64_t model,
                          std::uint16_t bulk_port) {
  wire::pb::Hello hello;
  hello.set_build(CONCLAVE_VERSION);
  hello.set_wire_version(kWireVersion);
  hello.set_numerics(kNumericsId);
  hello.set_life(options.head.life);
  if (options.pool) hello.set_host_id(options.pool->host_id);
  *hello.mutable_machine() = to_message(options.machine);
  hello.add_models(model);
  hello.set_bulk_port(bulk_port);
  return hello;
}

}  // namespace

class Agent::State {
 public:
  State(AgentOptions options, const Clock& clock, AgentHandlers handlers, model::ModelSource source,
        FileDescriptor epoll)
      : options_(std::move(options)),
        clock_(clock),
        handlers_(std::move(handlers)),
        source_(std::move(source)),
        epoll_(std::move(epoll)) {}

  Result<void> start();
  int fd() const { return epoll_.get(); }
  void poll();
  Result<void> submit(engine::Request request);
  void cancel(RequestId id);
  const AgentStatus& status() const { return status_; }
  HeadStatus pool_status() const { return head_->status(clock_.now()); }
  std::string pool_text() const {
    return pool_json(pool_status(), head_->history(), doctor_ ? doctor_->links() : LinkTable(),
                     clock_.now());
  }
  void trace(std::size_t steps_max, TraceGather::Done done);
  std::uint16_t pool_port() const { return door_ ? door_->port() : std::uint16_t{0}; }

 private:
  Result<void> watch(int fd);
  Result<void> open_door();
  Result<void> announce();
  void recall_expert_counts();
  void ask_expert_counts();
  void on_expert_counts(const wire::pb::Trace& trace);
  std::string counts_file() const { return "experts-" + hex_text(source_.fingerprint()); }
  std::string answer(std::string_view request);
  Result<nlohmann::json> obey(const nlohmann::json& request);
  void act();
  void perform(HeadAction& action);
  void update_status();
  void log_history();

  AgentOptions options_;
  const Clock& clock_;
  AgentHandlers handlers_;
  model::ModelSource source_;
  FileDescriptor epoll_;
  std::unique_ptr<PlannerPlacer> placer_;
  std::unique_ptr<Head> head_;
  std::unique_ptr<WeightServer> weights_;
  std::unique_ptr<PoolDoor> door_;
  std::unique_ptr<PoolDoctor> doctor_;  // with the door
  std::unique_ptr<Discovery> discovery_;
  Time announce_at_{};  // while there is none
  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<WorkerHost> host_;
  TraceGather traces_;
  std::unique_ptr<ExpertTally> tally_;  // with the door
  Time count_at_{};
  std::uint64_t counts_kept_ = 0;  // tokens and layers in what is on disk
  AgentStatus status_;
  bool was_ready_ = false;
  std::uint64_t history_seen_ = 0;
  bool acting_ = false;
};

Result<void> Agent::State::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return unavailable(std::string("agent: cannot watch: ") + std::generic_category().message(errno));
}

Result<void> Agent::State::open_door() {
  DoorHandlers handlers;
  handlers.on_hello = [this](NodeId node, const wire::pb::Hello& hello) {
    head_->on_hello(clock_.now(), node, hello);
    doctor_->on_hello(node, hello);
    act();
  };
  handlers.on_report = [this](NodeId node, const wire::pb::Report& report) {
    head_->on_report(clock_.now(), node, report);
    act();
  };
  handlers.on_trace = [this](NodeId, const wire::pb::Trace& trace) { traces_.on_trace(trace); };
  handlers.on_measured = [this](NodeId node, const wire::pb::Measured& answer) {
    doctor_->on_measured(node, answer);
  };
  handlers.on_gone = [this](NodeId node, const std::string& reason) {
    head_->on_gone(clock_.now(), node, reason);
    doctor_->on_gone(node);
    act();
  };
  weights_ = std::make_unique<WeightServer>(std::vector<const model::ModelSource*>{&source_},
                                            clock_, WeightServerLimits{});
  handlers.on_bulk = [this](transport::SecureStream stream, const std::string& name) {
    weights_->add(std::move(stream), name);
  };
  door_ = TRY(PoolDoor::open(*options_.pool, clock_, std::move(handlers)));
  doctor_ = std::make_unique<PoolDoctor>(*door_, clock_);
  options_.worker.listen_host = options_.pool->host.empty() ? kEverywhere : options_.pool->host;
  options_.worker.clear = options_.pool->clear;
  options_.worker.host_id = options_.pool->host_id;
  TRY(watch(door_->fd()));
  TRY(watch(doctor_->fd()));
  TRY(announce());
  recall_expert_counts();
  admin_ = TRY(AdminServer::create(door_->state(),
                                   [this](std::string_view request) { return answer(request); }));
  return watch(admin_->fd());
}

// So that nodes find this head when its address has changed. A pool of this machine alone needs no
// announcing, and without a library or its daemon, which may start later, nodes use --peer.
Result<void> Agent::State::announce() {
  const std::string& host = options_.pool->host;
  if (host.starts_with("127.") || host == "::1") return {};
  const bool first = announce_at_ == Time{};
  announce_at_ = clock_.now() + kDiscoveryAgain;
  discovery_ = make_discovery();
  if (!discovery_) return {};
  const Result<void> published = discovery_->publish(
      options_.pool->name, door_->port(), head_record(pin_of(door_->identity().fingerprint())));
  if (published) return watch(discovery_->fd());
  if (first) spdlog::info("not announced reason=\"{}\"", published.error().message);
  discovery_.reset();
  return {};
}

// What earlier runs counted decides which experts get copies in the first placement.
void Agent::State::recall_expert_counts() {
  std::optional<ExpertCounts> before;
  const auto text = door_->state().read(counts_file(), kCountsBytesMax);
  if (text && text->has_value()) {
    auto parsed = parse_expert_counts(**text);
    if (!parsed) spdlog::warn("begins to count anew reason=\"{}\"", parsed.error().message);
    if (parsed) before = std::move(*parsed);
  }
  tally_ = std::make_unique<ExpertTally>(source_.config(), before);
  counts_kept_ = tally_->total().sum();
  if (counts_kept_ > 0) placer_->set_expert_counts(tally_->total());
}

// Rank 0 routes as all ranks do.
void Agent::State::ask_expert_counts() {
  const HeadStatus pool = pool_status();
  if (pool.phase != HeadPhase::kRunning || pool.layout == nullptr ||
      pool.layout->strategy != plan::Strategy::kExpert) {
    return;
  }
  wire::pb::ToWorker ask;
  ask.mutable_trace()->set_id(kCountsQuestion);
  host_->tell(ask);
}

// Used and kept when they have doubled: other copies are other weights to load, so that a restart
// of the head should not change them for little.
void Agent::State::on_expert_counts(const wire::pb::Trace& trace) {
  if (!tally_) return;
  tally_->update(trace);
  const std::uint64_t counted = tally_->total().sum();
  if (counted == 0 || counted < 2 * counts_kept_) return;
  counts_kept_ = counted;
  placer_->set_expert_counts(tally_->total());
  const auto kept = door_->state().write(counts_file(), to_text(tally_->total()));
  if (!kept) spdlog::warn("expert counts not kept reason=\"{}\"", kept.error().message);
}

// What `conclave pair`, `conclave pool` and `conclave doctor` ask.
std::string Agent::State::answer(std::string_view request) {
  const nlohmann::json parsed = nlohmann::json::parse(request, nullptr, false);
  Result<nlohmann::json> answer =
      parsed.is_object() ? obey(parsed) : Result<nlohmann::json>(invalid_input("no JSON object"));
  if (!answer) return nlohmann::json{{"error", answer.error().message}}.dump();
  return answer->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<nlohmann::json> Agent::State::obey(const nlohmann::json& request) {
  const auto text = [&request](const char* key) {
    const auto found = request.find(key);
    return found != request.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const std::string what = text("do");
  const std::string name = text("node");
  if (what == "pair") return nlohmann::json{{"code", TRY(door_->issue_code())}};
  if (what == "pool") {
    return nlohmann::json::parse(pool_text());
  }
  if (what == "doctor") return doctor_->obey(request, pool_status());
  if (what == "drain") {
    const std::optional<NodeId> node = door_->find(name);
    if (!node) return not_found("no machine of the pool is called \"" + name + "\"");
    TRY(head_->drain(clock_.now(), *node));
    act();
    return nlohmann::json{{"ok", true}};
  }
  if (what == "remove") {
    const NodeId node = TRY(door_->remove(name));
    head_->remove(clock_.now(), node);
    doctor_->on_gone(node);
    weights_->drop(name);
    act();
    return nlohmann::json{{"ok", true}};
  }
  return invalid_input("unknown request \"" + what + "\"");
}

Result<void> Agent::State::start() {
  options_.head.life = options_.life == 0 ? random_life() : options_.life;
  options_.worker.model_dirs = {options_.model_dir};
  placer_ = TRY(PlannerPlacer::create(source_, options_.placer));
  head_ = std::make_unique<Head>(options_.head, *placer_);
  if (options_.pool) TRY(open_door());
  WorkerHostOptions host;
  host.program = options_.program;
  host.worker = options_.worker;
  host.node.supervisor = options_.supervisor;
  WorkerHostHandlers handlers;
  handlers.on_report = [this](const wire::pb::Report& report) {
    head_->on_report(clock_.now(), kHeadNode, report);
    act();
  };
  handlers.on_message = [this](const wire::pb::FromWorker& message) {
    if (message.has_trace() && message.trace().id() == kCountsQuestion) {
      return on_expert_counts(message.trace());
    }
    if (message.has_trace()) return traces_.on_trace(message.trace());
    head_->on_worker(clock_.now(), message);
    act();
  };
  host_ = TRY(WorkerHost::create(std::move(host), clock_, std::move(handlers)));
  if (door_) host_->keep(kIdentityMemory, TRY(identity_memory(door_->identity())));
  TRY(watch(host_->fd()));
  const wire::pb::Hello hello = own_hello(options_, source_.fingerprint(), pool_port());
  head_->on_hello(clock_.now(), kHeadNode, hello);
  if (doctor_) doctor_->on_hello(kHeadNode, hello);
  return {};
}

void Agent::State::poll() {
  if (door_) door_->poll();
  if (admin_) admin_->poll(clock_.now());
  if (discovery_) discovery_->poll(clock_.now());
  if (discovery_ && !discovery_->working()) discovery_.reset();
  host_->poll();
  head_->on_tick(clock_.now());
  traces_.on_tick(clock_.now());
  if (tally_ && clock_.now() >= count_at_) {
    count_at_ = clock_.now() + kCountEvery;
    ask_expert_counts();
  }
  act();
  log_history();
  update_status();
  // Last, because asking the daemon may take its time.
  if (door_ && !discovery_ && clock_.now() >= announce_at_) static_cast<void>(announce());
}

// What the head wants done may make it want more.
void Agent::State::act() {
  if (std::exchange(acting_, true)) return;
  for (;;) {
    std::vector<HeadAction> actions = head_->take_actions();
    if (actions.empty()) break;
    for (HeadAction& action : actions) perform(action);
  }
  acting_ = false;
}

void Agent::State::perform(HeadAction& action) {
  if (const auto* send = std::get_if<SendAssignment>(&action)) {
    if (send->node == kHeadNode) return host_->on_assignment(send->assignment);
    if (door_) door_->send(send->node, send->assignment);
  } else if (const auto* refuse = std::get_if<RefuseNode>(&action)) {
    if (door_) door_->refuse(refuse->node, refuse->reason);
  } else if (const auto* tell = std::get_if<SendToWorker>(&action)) {
    host_->tell(tell->message);
  } else if (const auto* token = std::get_if<EmitToken>(&action)) {
    handlers_.on_token(token->event);
  } else if (const auto* failed = std::get_if<EmitFailure>(&action)) {
    handlers_.on_failed(failed->request, failed->error);
  } else if (const auto* prefill = std::get_if<EmitPrefill>(&action)) {
    handlers_.on_prefill(prefill->request, prefill->done, prefill->total);
  }
}

void Agent::State::trace(std::size_t steps_max, TraceGather::Done done) {
  const HeadStatus pool = pool_status();
  std::vector<NodeId> ranks;
  for (const NodeStatus& node : pool.nodes) {
    if (node.alive && node.in_epoch) ranks.push_back(node.node);
  }
  wire::pb::TraceRequest request;
  request.set_id(traces_.begin(clock_.now(), ranks.size(), std::move(done)));
  request.set_steps_max(static_cast<std::uint32_t>(steps_max));
  if (request.id() == 0) return;
  for (const NodeId node : ranks) {
    if (node != kHeadNode) {
      door_->ask_trace(node, request);
      continue;
    }
    wire::pb::ToWorker ask;
    *ask.mutable_trace() = request;
    host_->tell(ask);
  }
}

Result<void> Agent::State::submit(engine::Request request) {
  TRY(head_->submit(clock_.now(), std::move(request)));
  act();
  return {};
}

void Agent::State::cancel(RequestId id) {
  head_->cancel(clock_.now(), id);
  act();
}

void Agent::State::log_history() {
  for (const HistoryEntry& entry : head_->history()) {
    if (entry.number <= history_seen_) continue;
    history_seen_ = entry.number;
    spdlog::info("pool {}", entry.text);
  }
}

void Agent::State::update_status() {
  const HeadSummary pool = head_->summary(clock_.now());
  if (doctor_) doctor_->poll(pool);
  const bool running = pool.phase == HeadPhase::kRunning;
  was_ready_ = was_ready_ || running;
  status_.state =
      running ? AgentState::kReady : (was_ready_ ? AgentState::kRestarting : AgentState::kLoading);
  if (!head_->failure().empty()) status_.state = AgentState::kFailed;
  status_.failure = head_->failure();
  status_.loaded_bytes = pool.loaded_bytes;
  status_.total_bytes = pool.total_bytes;
  if (pool.context_max > 0) status_.context_max = pool.context_max;
  if (!pool.backend.empty()) status_.backend = pool.backend;
  status_.restarts = host_->node().supervisor().restarts();
  status_.worker_pid = host_->worker_pid();
  status_.open_requests = pool.open_requests;
  status_.stats = pool.stats;
  status_.text = pool.text;
}

// --- the public face --------------------------------------------------------------------------

Agent::Agent(std::unique_ptr<State> state) : state_(std::move(state)) {}
Agent::~Agent() = default;

Result<std::unique_ptr<Agent>> Agent::create(AgentOptions options, const Clock& clock,
                                             AgentHandlers handlers) {
  model::ModelSource source = TRY(model::ModelSource::open(options.model_dir));
  FileDescriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.open()) {
    return unavailable(std::string("agent: cannot watch a worker: ") +
                       std::generic_category().message(errno));
  }
  auto state = std::make_unique<State>(std::move(options), clock, std::move(handlers),
                                       std::move(source), std::move(epoll));
  TRY(state->start());
  return std::make_unique<Agent>(std::move(state));
}

int Agent::fd() const { return state_->fd(); }
void Agent::poll() { state_->poll(); }
Result<void> Agent::submit(engine::Request request) { return state_->submit(std::move(request)); }
void Agent::cancel(RequestId id) { state_->cancel(id); }
const AgentStatus& Agent::status() const { return state_->status(); }
std::string Agent::pool_text() const { return state_->pool_text(); }
void Agent::trace(std::size_t steps_max, std::function<void(std::string json)> done) {
  state_->trace(steps_max, std::move(done));
}
HeadStatus Agent::pool_status() const { return state_->pool_status(); }
std::uint16_t Agent::pool_port() const { return state_->pool_port(); }

}  // namespace conclave::cluster
