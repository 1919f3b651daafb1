// The routes, and every answer in progress.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/rng.h"
#include "cluster/cluster.h"
#include "server/background.h"
#include "server/chat_api.h"
#include "server/chat_session.h"
#include "server/http_server.h"
#include "text/text.h"

namespace conclave::server {

struct ServiceOptions {
  std::string model_id;
  std::string host;  // as served: allowed in Host headers
  std::string fingerprint;
  std::size_t vocab_size = 0;
  std::size_t context_max = 0;
  std::size_t requests_max = 256;  // choices answered at once
  std::uint64_t random_seed = 0;   // of ids and of seeds that clients leave out
};

// Threads: the loop's. A chat request is made ready on one more, so that a long prompt or a slow
// grammar stops nobody else; there only the options, the text model and the memory of grammars are
// used.
class Service final : public HttpHandler {
 public:
  // All three must outlive the service.
  Service(ServiceOptions options, const text::TextModel& text, const Clock& clock, EventLoop& loop);

  // Before the first request; `agent` must outlive the last one.
  void attach(cluster::Agent& agent) { agent_ = &agent; }
  cluster::AgentHandlers agent_handlers();

  std::optional<HttpResponse> gate(const HttpRequest& head) override;
  HttpHeaders common_headers(const HttpRequest& head) override;
  void handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) override;
  HttpResponse refusal(int status, std::string_view message) override;

  void on_tick();                       // about once a second
  void drain() { draining_ = true; }    // refuses new answers
  void end_all(const ApiError& error);  // ends those in progress
  std::size_t open_answers() const { return preparing_.size() + sessions_.size(); }

 private:
  using SessionKey = std::uint64_t;
  struct Place {
    SessionKey session = 0;
    std::size_t choice = 0;
  };
  struct Prepared {
    GenerateRequest request;
    Generation generation;
  };

  HttpResponse health() const;
  HttpResponse models(const std::string& path) const;
  Json model_json() const;
  std::optional<ApiError> not_now() const;
  void chat(HttpRequest request, const std::shared_ptr<ResponseWriter>& writer);
  Parsed<Prepared> prepare(const std::string& body, std::uint64_t seed);
  void on_prepared(SessionKey key, Parsed<Prepared>& prepared);
  void start(SessionKey key, const GenerateRequest& request, Generation generation,
             const std::shared_ptr<ResponseWriter>& writer);
  void on_token(const engine::TokenEvent& token);
  void on_failed(RequestId id, const Error& error);
  void on_prefill(RequestId id);
  void forget(SessionKey key);  // and stops its requests
  void log_end(const ChatSession& session, std::string_view how) const;
  std::string random_id();

  ServiceOptions options_;
  const text::TextModel& text_;
  const Clock& clock_;
  cluster::Agent* agent_ = nullptr;
  SplitMix random_;
  std::int64_t created_;  // Unix seconds, of the model's entry
  // Requests that wait for the background or are there; shared with the connection's answer.
  std::map<SessionKey, std::shared_ptr<ResponseWriter>> preparing_;
  std::map<SessionKey, ChatSession> sessions_;
  std::map<RequestId, Place> places_;  // of the requests that are running
  SessionKey next_session_ = 1;
  std::uint64_t next_request_ = 1;
  bool draining_ = false;
  CheckedGrammars checked_grammars_;  // the background's
  Background background_;             // last: its thread ends before what it reads
};

}  // namespace conclave::server
