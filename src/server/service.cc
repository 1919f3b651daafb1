#include "server/service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <utility>
#include <vector>

#include "base/check.h"
#include "server/http_rules.h"
#include "server/json_reader.h"

namespace conclave::server {
namespace {

constexpr std::size_t kRequestIdMax = 128;
constexpr std::string_view kClusterPath = "/conclave/v1/cluster";
constexpr std::string_view kTracePath = "/conclave/v1/trace";
constexpr std::size_t kTraceSteps = 64;

constexpr const char* kHomePage =
    "conclave is running. Point an OpenAI client at this address with /v1 added.\n";

ApiError plain_error(int status, const char* type, std::string message, const char* code) {
  return {.status = status, .type = type, .message = std::move(message), .param = {}, .code = code};
}

ApiError unavailable_error(std::string message, const char* code) {
  return plain_error(503, "unavailable_error", std::move(message), code);
}

ApiError too_many_answers(std::size_t limit) {
  return api_error(exhausted("too many answers at once; the limit is " + std::to_string(limit)));
}

HttpResponse text_response(const char* text) {
  return {.status = 200, .headers = {{"Content-Type", "text/plain; charset=utf-8"}}, .body = text};
}

HttpResponse raw_json(std::string body) {
  return {
      .status = 200, .headers = {{"Content-Type", "application/json"}}, .body = std::move(body)};
}

HttpResponse wrong_method(const HttpRequest& request, const char* allowed) {
  HttpResponse response = error_response(plain_error(
      405, "invalid_request_error",
      "method " + request.method + " is not allowed here; use " + allowed, "method_not_allowed"));
  response.headers.emplace_back("Allow", allowed);
  return response;
}

bool reads(const HttpRequest& request) {
  return request.method == "GET" || request.method == "HEAD";
}

bool is_echoable(std::string_view id) {
  return !id.empty() && id.size() <= kRequestIdMax &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
}

}  // namespace

Service::Service(ServiceOptions options, const text::TextModel& text, const Clock& clock,
                 EventLoop& loop)
    : options_(std::move(options)),
      text_(text),
      clock_(clock),
      random_(options_.random_seed),
      created_(std::time(nullptr)),
      background_(loop) {}

cluster::AgentHandlers Service::agent_handlers() {
  return {.on_token = [this](const engine::TokenEvent& token) { on_token(token); },
          .on_failed = [this](RequestId id, const Error& error) { on_failed(id, error); },
          .on_prefill = [this](RequestId id, std::uint64_t, std::uint64_t) { on_prefill(id); }};
}

// --- before the body --------------------------------------------------------------------------

std::optional<HttpResponse> Service::gate(const HttpRequest& head) {
  const std::string_view host = head.header("host");
  if (!host_allowed(host, options_.host)) {
    return error_response(plain_error(403, "permission_error",
                                      "Host \"" + std::string(host) +
                                          "\" is not served; use the machine's IP address or "
                                          "localhost",
                                      "host_not_allowed"));
  }
  if (origin_kind(head.header("origin"), host) == OriginKind::kForeign) {
    return error_response(plain_error(
        403, "permission_error",
        "pages of \"" + std::string(head.header("origin")) + "\" may not use this server",
        "origin_not_allowed"));
  }
  const std::string_view encoding = head.header("content-encoding");
  if (!encoding.empty() && encoding != "identity") {
    return error_response(plain_error(
        415, "invalid_request_error",
        "Content-Encoding \"" + std::string(encoding) + "\" is not supported; send plain JSON",
        "unsupported_encoding"));
  }
  return std::nullopt;
}

HttpHeaders Service::common_headers(const HttpRequest& head) {
  HttpHeaders headers;
  const std::string_view id = head.header("x-request-id");
  headers.emplace_back("X-Request-Id", is_echoable(id) ? std::string(id) : random_id());
  const std::string_view origin = head.header("origin");
  if (origin_kind(origin, head.header("host")) != OriginKind::kLoopback) return headers;
  headers.emplace_back("Access-Control-Allow-Origin", std::string(origin));
  headers.emplace_back("Vary", "Origin");
  if (head.method == "OPTIONS") {
    headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    headers.emplace_back("Access-Control-Allow-Headers",
                         "authorization, content-type, x-api-key, x-request-id");
    headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return headers;
}

HttpResponse Service::refusal(int status, std::string_view message) {
  const bool busy = status == 503;
  return error_response(plain_error(status, busy ? "unavailable_error" : "invalid_request_error",
                                    std::string(message), busy ? "busy" : ""));
}

// --- routes -----------------------------------------------------------------------------------

void Service::handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
  const std::string path = route_path(request.target);
  if (request.method == "OPTIONS") return writer->send({.status = 204, .headers = {}, .body = {}});
  if (path == "/chat/completions") {
    if (request.method != "POST") return writer->send(wrong_method(request, "POST"));
    return chat(std::move(request), writer);
  }
  const bool known = path == kClusterPath || path == kTracePath || path == "/" ||
                     path == "/health" || path == "/models" || path.starts_with("/models/");
  if (!known) {
    return writer->send(error_response(
        plain_error(404, "not_found", "no such path: " + request.target, "unknown_path")));
  }
  if (!reads(request)) return writer->send(wrong_method(request, "GET"));
  if (path == kClusterPath) return writer->send(raw_json(agent_->pool_text()));
  if (path == kTracePath) {
    return agent_->trace(kTraceSteps,
                         [writer](std::string json) { writer->send(raw_json(std::move(json))); });
  }
  if (path == "/") return writer->send(text_response(kHomePage));
  if (path == "/health") return writer->send(health());
  writer->send(models(path));
}

HttpResponse Service::health() const {
  const cluster::AgentStatus& status = agent_->status();
  Json json = Json::object();
  switch (status.state) {
    case cluster::AgentState::kReady:
    case cluster::AgentState::kRestarting:
      json["status"] = "ok";
      json["worker"] = status.state == cluster::AgentState::kReady ? "ready" : "restarting";
      json["requests"] = status.open_requests;
      json["restarts"] = status.restarts;
      return json_response(200, json);
    case cluster::AgentState::kLoading: {
      json["status"] = "loading model";
      const double total = static_cast<double>(status.total_bytes);
      json["progress"] = total > 0 ? static_cast<double>(status.loaded_bytes) / total : 0.0;
      HttpResponse response = json_response(503, json);
      response.headers.emplace_back("Retry-After", "1");
      return response;
    }
    case cluster::AgentState::kFailed:
      json["status"] = "failed";
      json["error"] = status.failure;
      return json_response(503, json);
  }
  return json_response(500, json);
}

// One object for OpenAI's clients, vLLM's and Anthropic's.
Json Service::model_json() const {
  Json json = Json::object();
  json["id"] = options_.model_id;
  json["object"] = "model";
  json["type"] = "model";
  json["created"] = created_;
  json["owned_by"] = "conclave";
  json["display_name"] = options_.model_id;
  json["max_model_len"] = options_.context_max;
  json["context_length"] = options_.context_max;
  json["meta"] = Json{{"n_vocab", options_.vocab_size}, {"n_ctx_train", options_.context_max}};
  return json;
}

HttpResponse Service::models(const std::string& path) const {
  constexpr std::string_view kPrefix = "/models/";
  if (path.starts_with(kPrefix)) {
    const std::string id = path.substr(kPrefix.size());
    if (id == options_.model_id) return json_response(200, model_json());
    return error_response(plain_error(
        404, "not_found",
        "the model \"" + id + "\" does not exist; this server has \"" + options_.model_id + "\"",
        "model_not_found"));
  }
  Json json = Json::object();
  json["object"] = "list";
  json["data"] = Json::array({model_json()});
  json["has_more"] = false;
  json["first_id"] = options_.model_id;
  json["last_id"] = options_.model_id;
  return json_response(200, json);
}

// --- chat -------------------------------------------------------------------------------------

std::optional<ApiError> Service::not_now() const {
  const cluster::AgentStatus& status = agent_->status();
  if (draining_) return unavailable_error("the server is shutting down", "shutting_down");
  if (status.state == cluster::AgentState::kLoading) {
    return unavailable_error("the model is loading; try again in a moment", "model_loading");
  }
  if (status.state == cluster::AgentState::kFailed) {
    return unavailable_error(status.failure, "worker_failed");
  }
  return std::nullopt;
}

void Service::chat(HttpRequest request, const std::shared_ptr<ResponseWriter>& writer) {
  const auto refuse = [&writer](const ApiError& error) { writer->send(error_response(error)); };
  if (const auto error = not_now()) return refuse(*error);
  if (places_.size() + preparing_.size() >= options_.requests_max) {
    return refuse(too_many_answers(options_.requests_max));
  }

  const SessionKey key = next_session_++;
  const std::size_t body_bytes = request.body.size();
  auto work = [this, key, seed = random_.next(), body = std::move(request.body)] {
    // Shared because a std::function has to be copyable.
    auto prepared = std::make_shared<Parsed<Prepared>>(prepare(body, seed));
    return [this, key, prepared] { on_prepared(key, *prepared); };
  };
  if (const auto queued = background_.submit(key, body_bytes, std::move(work)); !queued) {
    return refuse(api_error(queued.error()));
  }
  preparing_.emplace(key, writer);
  writer->on_closed([this, key] {
    background_.cancel(key);
    preparing_.erase(key);
  });
}

// On the background's thread.
Parsed<Service::Prepared> Service::prepare(const std::string& body, std::uint64_t seed) {
  auto json = parse_json(body);
  if (!json) return json.error();
  auto request = parse_chat_request(
      json.value(), {.vocab_size = options_.vocab_size, .generation = text_.generation_defaults()});
  if (!request) return request.error();
  if (request.value().n > options_.requests_max) return too_many_answers(options_.requests_max);
  auto generation =
      start_generation(text_, request.value(), options_.context_max, seed, checked_grammars_);
  if (!generation) return generation.error();
  return Prepared{.request = std::move(request.value()),
                  .generation = std::move(generation.value())};
}

void Service::on_prepared(SessionKey key, Parsed<Prepared>& prepared) {
  const auto place = preparing_.find(key);
  if (place == preparing_.end()) return;  // the client has gone, or the server ends
  const std::shared_ptr<ResponseWriter> writer = std::move(place->second);
  preparing_.erase(place);
  if (!prepared) return writer->send(error_response(prepared.error()));
  Prepared& ready = prepared.value();
  // Its choices are known only now.
  if (places_.size() + ready.request.n > options_.requests_max) {
    return writer->send(error_response(too_many_answers(options_.requests_max)));
  }
  start(key, ready.request, std::move(ready.generation), writer);
}

void Service::start(SessionKey key, const GenerateRequest& request, Generation generation,
                    const std::shared_ptr<ResponseWriter>& writer) {
  const ChatMeta meta{.id = "chatcmpl-" + random_id(),
                      .created = std::time(nullptr),
                      .model = options_.model_id,
                      .fingerprint = options_.fingerprint,
                      .n = request.n,
                      .include_usage = request.include_usage};
  std::vector<engine::Request> requests = std::exchange(generation.requests, {});
  sessions_.try_emplace(key, meta, std::move(generation), request.stream, writer, clock_.now());
  writer->on_closed([this, key] {
    log_end(sessions_.at(key), "client_gone");
    forget(key);
  });
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const RequestId id{next_request_++};
    requests[i].id = id;
    places_.emplace(id, Place{.session = key, .choice = i});
    if (const auto submitted = agent_->submit(std::move(requests[i])); !submitted) {
      return on_failed(id, submitted.error());
    }
    if (!sessions_.contains(key)) return;  // refused at once
  }
}

void Service::on_token(const engine::TokenEvent& token) {
  const auto place = places_.find(token.request);
  if (place == places_.end()) return;
  const SessionKey key = place->second.session;
  ChatSession& session = sessions_.at(key);
  if (!session.on_token(place->second.choice, token, clock_.now())) {
    CHECK(token.finish == engine::FinishReason::kNone);
    return;
  }
  // The answer may end before the engine knows: a stop string, a first call.
  if (token.finish == engine::FinishReason::kNone) agent_->cancel(token.request);
  places_.erase(place);
  if (!session.ended()) return;
  log_end(session, "done");
  forget(key);
}

void Service::on_failed(RequestId id, const Error& error) {
  const auto place = places_.find(id);
  if (place == places_.end()) return;
  const SessionKey key = place->second.session;
  ChatSession& session = sessions_.at(key);
  spdlog::warn("request failed id={} reason=\"{}\"", session.id(), error.message);
  session.fail(api_error(error));
  forget(key);
}

void Service::on_prefill(RequestId id) {
  const auto place = places_.find(id);
  if (place != places_.end()) sessions_.at(place->second.session).on_admitted(clock_.now());
}

void Service::on_tick() {
  for (auto& [key, session] : sessions_) session.on_tick(clock_.now());
}

void Service::end_all(const ApiError& error) {
  for (const auto& [key, writer] : std::exchange(preparing_, {})) {
    background_.cancel(key);
    writer->send(error_response(error));
  }
  while (!sessions_.empty()) {
    ChatSession& session = sessions_.begin()->second;
    session.fail(error);
    log_end(session, "ended_by_server");
    forget(sessions_.begin()->first);
  }
}

void Service::forget(SessionKey key) {
  std::vector<RequestId> ids;
  std::erase_if(places_, [&ids, key](const auto& entry) {
    if (entry.second.session != key) return false;
    ids.push_back(entry.first);
    return true;
  });
  sessions_.erase(key);
  // Last: it may end other requests, which comes back here.
  for (const RequestId id : ids) agent_->cancel(id);
}

void Service::log_end(const ChatSession& session, std::string_view how) const {
  const Usage usage = session.usage();
  spdlog::info("request ended id={} how={} prompt_tokens={} completion_tokens={} seconds={:.3f}",
               session.id(), how, usage.prompt_tokens, usage.completion_tokens,
               seconds(clock_.now() - session.started_at()));
}

std::string Service::random_id() {
  constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuv";
  std::string id;
  for (int half = 0; half < 2; ++half) {
    std::uint64_t bits = random_.next();
    for (int i = 0; i < 12; ++i, bits >>= 5) id.push_back(kDigits[bits & 31u]);
  }
  return id;
}

}  // namespace conclave::server
