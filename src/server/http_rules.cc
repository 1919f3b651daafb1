#include "server/http_rules.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

#include "base/check.h"

namespace conclave::server {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text[i] == '%' && i + 2 < text.size() && hex_value(text[i + 1]) >= 0 &&
                         hex_value(text[i + 2]) >= 0;
    if (escaped) {
      out.push_back(static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2])));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

// "name:80" -> "name", "[::1]:80" -> "::1"; nullopt when it is neither.
std::optional<std::string> host_name(std::string_view host) {
  std::string_view name = host;
  std::string_view rest;
  if (host.starts_with('[')) {
    const std::size_t end = host.find(']');
    if (end == std::string_view::npos) return std::nullopt;
    name = host.substr(1, end - 1);
    rest = host.substr(end + 1);
  } else {
    name = host.substr(0, host.find(':'));
    rest = host.substr(name.size());
  }
  if (!rest.empty() && rest.front() != ':') return std::nullopt;
  if (!rest.empty()) rest.remove_prefix(1);
  if (!std::all_of(rest.begin(), rest.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return std::nullopt;
  }
  return lower(name);
}

bool is_address(const std::string& name) {
  std::array<unsigned char, 16> bytes{};
  return inet_pton(AF_INET, name.c_str(), bytes.data()) == 1 ||
         inet_pton(AF_INET6, name.c_str(), bytes.data()) == 1;
}

bool is_loopback_name(std::string_view name) {
  return name == "localhost" || name.ends_with(".localhost");
}

bool is_loopback(const std::string& name) {
  return is_loopback_name(name) || name == "::1" || (name.starts_with("127.") && is_address(name));
}

}  // namespace

std::string route_path(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!target.starts_with(scheme)) continue;
    target.remove_prefix(scheme.size());
    target.remove_prefix(std::min(target.find('/'), target.size()));
  }
  const std::string decoded = percent_decode(target.substr(0, target.find_first_of("?#")));
  std::string_view path = decoded;
  while (path == "/v1" || path.starts_with("/v1/")) path.remove_prefix(3);
  while (path.ends_with('/')) path.remove_suffix(1);
  return path.empty() ? "/" : std::string(path);
}

bool host_allowed(std::string_view host, std::string_view served_host) {
  const std::optional<std::string> name = host_name(host);
  if (!name || name->empty()) return false;
  return is_loopback_name(*name) || is_address(*name) || *name == lower(served_host);
}

OriginKind origin_kind(std::string_view origin, std::string_view host) {
  if (origin.empty()) return OriginKind::kNone;
  const std::size_t colon = origin.find("://");
  if (colon == std::string_view::npos) return OriginKind::kForeign;  // "null"
  const std::string scheme = lower(origin.substr(0, colon));
  if (scheme != "http" && scheme != "https") return OriginKind::kApp;
  const std::string_view authority = origin.substr(colon + 3);
  const std::optional<std::string> name = host_name(authority);
  if (!name) return OriginKind::kForeign;
  return is_loopback(*name) || lower(authority) == lower(host) ? OriginKind::kLoopback
                                                               : OriginKind::kForeign;
}

std::string_view status_text(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    default:
      return "Other";
  }
}

std::string response_head(int status, const HttpHeaders& headers) {
  std::string head = "HTTP/1.1 " + std::to_string(status) + " ";
  head += status_text(status);
  head += "\r\n";
  for (const auto& [name, value] : headers) {
    CHECK(name.find_first_of("\r\n:") == std::string::npos);
    CHECK(value.find_first_of("\r\n") == std::string::npos);
    head += name + ": " + value + "\r\n";
  }
  head += "\r\n";
  return head;
}

}  // namespace conclave::server
