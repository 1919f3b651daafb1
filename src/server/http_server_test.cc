#include "server/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace conclave::server {
namespace {

using namespace std::chrono_literals;

class TestHandler final : public HttpHandler {
 public:
  std::optional<HttpResponse> gate(const HttpRequest& head) override {
    if (head.header("x-refuse").empty()) return std::nullopt;
    return HttpResponse{.status = 403, .headers = {}, .body = "refused"};
  }
  HttpHeaders common_headers(const HttpRequest& head) override { return {{"X-Seen", head.method}}; }
  HttpResponse refusal(int status, std::string_view message) override {
    return {.status = status, .headers = {}, .body = std::string(message)};
  }

  void handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) override {
    if (request.target == "/echo") {
      writer->send({.status = 200, .headers = {}, .body = request.body});
    } else if (request.target == "/stream") {
      writer->begin_stream(200, {{"Content-Type", "text/plain"}});
      writer->write("one,");
      writer->write(std::string(300, 'x'));
      writer->end();
    } else if (request.target == "/hang") {
      writer->begin_stream(200, {});
      writer->write("begun");
      writer->on_closed([this] {
        kept.reset();
        note_gone();
      });
      kept = std::move(writer);
    } else if (request.target == "/flood") {
      writer->begin_stream(200, {});
      writer->on_closed([this] { note_gone(); });
      // More than the limit and what two sockets hold.
      for (int i = 0; i < 300; ++i) writer->write(std::string(64 << 10, 'y'));
      kept = std::move(writer);
    }
    // Anything else: the writer is dropped.
  }

  // Whether a client has gone within five seconds.
  bool wait_gone() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 5s, [this] { return n_gone_ > 0; });
  }

  std::shared_ptr<ResponseWriter> kept;

 private:
  void note_gone() {
    const std::lock_guard lock(mutex_);
    ++n_gone_;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int n_gone_ = 0;
};

// A client with a socket of its own; reading stops at the end or after five seconds.
class Client {
 public:
  explicit Client(std::uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval timeout{.tv_sec = 5, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    EXPECT_EQ(connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { close(fd_); }

  Client& send(std::string_view bytes) {
    EXPECT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    return *this;
  }
  // Until `end` has come, or the connection's end.
  std::string read_until(std::string_view end) {
    while (end.empty() || received_.find(end) == std::string::npos) {
      std::array<char, 65536> bytes;
      const ssize_t n = recv(fd_, bytes.data(), bytes.size(), 0);
      timed_out_ = n < 0;
      if (n <= 0) break;
      received_.append(bytes.data(), static_cast<std::size_t>(n));
    }
    return std::exchange(received_, {});
  }
  std::string read_all() {
    std::string all = read_until("");
    EXPECT_FALSE(timed_out_) << "the server did not close the connection";
    return all;
  }

 private:
  int fd_;
  std::string received_;
  bool timed_out_ = false;
};

class Http : public testing::Test {
 protected:
  void start(HttpLimits limits) {
    auto server = HttpServer::listen(loop_, "127.0.0.1", 0, handler_, limits);
    ASSERT_TRUE(server);
    server_ = std::move(server).value();
    port_ = server_->port();
    thread_ = std::thread([this] { loop_.run(); });
  }
  void SetUp() override {
    start({.header_bytes_max = 4096,
           .body_bytes_max = 1000,
           .bodies_bytes_max = 2500,
           .output_bytes_max = 1 << 20,
           .connections_max = 4,
           .header_timeout = 300ms,
           .body_timeout = 300ms,
           .write_timeout = 2s});
  }
  void TearDown() override {
    loop_.stop();
    thread_.join();
    handler_.kept.reset();
    server_.reset();
  }
  std::string ask(std::string_view bytes) { return Client(port_).send(bytes).read_all(); }

  EventLoop loop_;
  TestHandler handler_;
  std::unique_ptr<HttpServer> server_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

std::string post(std::string_view target, std::string_view body, std::string_view more = "") {
  return "POST " + std::string(target) +
         " HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         std::string(more) + "\r\n" + std::string(body);
}

constexpr std::string_view kClose = "Connection: close\r\n";

TEST_F(Http, AnswersWithLengthAndCommonHeaders) {
  EXPECT_EQ(
      ask(post("/echo", "hello", kClose)),
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nX-Seen: POST\r\n\r\nhello");
}

TEST_F(Http, KeepsTheConnectionAndTakesPipelinedRequests) {
  const std::string answer =
      ask(post("/echo", "1") + post("/echo", "2") + post("/echo", "3", kClose));
  for (const char* body : {"\r\n\r\n1HTTP", "\r\n\r\n2HTTP", "\r\n\r\n3"}) {
    EXPECT_NE(answer.find(body), std::string::npos) << answer;
  }
}

TEST_F(Http, StreamsInChunks) {
  const std::string answer = ask("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_NE(answer.find("Transfer-Encoding: chunked\r\n"), std::string::npos);
  EXPECT_NE(answer.find("\r\n\r\n4\r\none,\r\n12c\r\nxxx"), std::string::npos) << answer;
  EXPECT_TRUE(answer.ends_with("\r\n0\r\n\r\n"));
}

TEST_F(Http, StreamsToTheEndForOldClients) {
  const std::string answer = ask("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_EQ(answer.find("chunked"), std::string::npos);
  EXPECT_NE(answer.find("Connection: close\r\n"), std::string::npos);
  EXPECT_NE(answer.find("\r\n\r\none,xxx"), std::string::npos);
}

TEST_F(Http, HeadHasNoBody) {
  const std::string answer = ask("HEAD /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
  EXPECT_EQ(answer.find("one"), std::string::npos);
}

TEST_F(Http, ReadsChunkedBodies) {
  const std::string answer = ask(
      "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
  EXPECT_TRUE(answer.ends_with("\r\n\r\nabcde")) << answer;
}

TEST_F(Http, SaysContinueWhenAsked) {
  Client client(port_);
  client.send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
      "Connection: close\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_TRUE(client.send("ok").read_all().ends_with("\r\n\r\nok"));
}

TEST_F(Http, RefusesWhatIsNotHttp) {
  EXPECT_EQ(ask("\x16\x03\x01 hello\r\n\r\n").substr(0, 12), "HTTP/1.1 400");
  EXPECT_EQ(ask("GET /echo HTTP/1.1\r\nbad header\r\n\r\n").substr(0, 12), "HTTP/1.1 400");
  EXPECT_EQ(ask("POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n").substr(0, 12), "HTTP/1.1 400");
  EXPECT_EQ(ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
                .substr(0, 12),
            "HTTP/1.1 400");
}

TEST_F(Http, RefusesWhatIsTooLarge) {
  EXPECT_EQ(ask("GET /echo HTTP/1.1\r\nX: " + std::string(5000, 'x') + "\r\n\r\n").substr(0, 12),
            "HTTP/1.1 431");
  EXPECT_EQ(ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").substr(0, 12),
            "HTTP/1.1 413");
  std::string chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 11; ++i) chunked += "64\r\n" + std::string(100, 'x') + "\r\n";
  EXPECT_EQ(ask(chunked).substr(0, 12), "HTTP/1.1 413");
}

TEST_F(Http, BodiesTogetherHaveALimit) {
  Client one(port_);
  Client two(port_);
  for (Client* client : {&one, &two}) {
    client->send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: x\r\n\r\n");
    client->read_until("\r\n\r\n");  // "continue": its bytes are counted
  }
  EXPECT_EQ(ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n").substr(0, 12),
            "HTTP/1.1 503");
  one.read_all();  // its time is up, and its bytes are free again
  two.read_all();
  EXPECT_TRUE(ask(post("/echo", std::string(900, 'x'), kClose)).ends_with("xxx"));
}

TEST_F(Http, TheGateAnswersBeforeTheBody) {
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\nContent-Length: 900\r\n\r\n")
                  .ends_with("\r\n\r\nrefused"));
  // Without a body the connection stays good.
  const std::string both =
      ask("GET /echo HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\n\r\n" + post("/echo", "ok", kClose));
  EXPECT_NE(both.find("refusedHTTP/1.1 200"), std::string::npos) << both;
}

TEST_F(Http, SlowRequestsEnd) {
  const Time start = RealClock().now();
  EXPECT_EQ(ask("GET /ech"), "");
  EXPECT_EQ(ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"), "");
  EXPECT_EQ(ask(""), "") << "idle";
  EXPECT_LT(RealClock().now() - start, 4s);
}

class HttpWithLongPauses : public Http {
 protected:
  void SetUp() override {
    HttpLimits limits;
    limits.whole_body_timeout = 300ms;
    start(limits);
  }
};

TEST_F(HttpWithLongPauses, AWholeBodyHasALimitToo) {
  EXPECT_EQ(ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"), "");
  EXPECT_TRUE(ask(post("/echo", "in time", kClose)).ends_with("in time"));
}

TEST_F(Http, AClientThatGoesIsNoticed) {
  {
    Client client(port_);
    client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_until("begun");
  }
  EXPECT_TRUE(handler_.wait_gone());
}

TEST_F(Http, AReaderThatTakesNothingIsCutOff) {
  Client client(port_);
  client.send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_TRUE(handler_.wait_gone());
}

TEST_F(Http, ADroppedAnswerClosesTheConnection) {
  EXPECT_EQ(ask("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"), "");
}

TEST_F(Http, ConnectionsHaveALimit) {
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<Client>(port_));
    clients.back()->send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").read_until("begun");
  }
  EXPECT_EQ(Client(port_).read_all(), "");
  clients.pop_back();
  EXPECT_TRUE(handler_.wait_gone());
  EXPECT_TRUE(ask(post("/echo", "ok", kClose)).ends_with("ok"));
}

TEST_F(Http, StopEndsIdleConnectionsAndLetsAnswersFinish) {
  Client idle(port_);
  idle.send(post("/echo", "x")).read_until("\r\n\r\nx");
  Client busy(port_);
  busy.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").read_until("begun");
  loop_.post([this] { server_->stop(); });
  EXPECT_EQ(idle.read_all(), "");
  loop_.post([this] {
    handler_.kept->write("last");
    handler_.kept->end();
  });
  EXPECT_NE(busy.read_all().find("last"), std::string::npos);
}

TEST(HttpListen, ErrorsNameTheAddress) {
  EventLoop loop;
  TestHandler handler;
  const auto first = HttpServer::listen(loop, "127.0.0.1", 0, handler, {});
  ASSERT_TRUE(first);
  const auto second = HttpServer::listen(loop, "127.0.0.1", first.value()->port(), handler, {});
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("127.0.0.1 port"), std::string::npos);
  const auto name = HttpServer::listen(loop, "not an address", 0, handler, {});
  ASSERT_FALSE(name);
  EXPECT_EQ(name.error().code, ErrorCode::kInvalidInput);
}

}  // namespace
}  // namespace conclave::server
