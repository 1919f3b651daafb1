// For tests: is this XML that any reader accepts? Elements nest, attributes are quoted and unique,
// entities are the five that XML knows or numbers.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::apps {

inline std::size_t occurrences(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

// Empty when the piece has only known entities and no "<"; else what is wrong.
inline std::string xml_text_error(std::string_view text) {
  for (std::size_t at = text.find('&'); at != std::string_view::npos; at = text.find('&', at + 1)) {
    const std::string_view rest = text.substr(at, 6);
    const bool known = rest.starts_with("&amp;") || rest.starts_with("&lt;") ||
                       rest.starts_with("&gt;") || rest.starts_with("&quot;") ||
                       rest.starts_with("&#39;");
    if (!known) return "bare & before " + std::string(rest);
  }
  return text.find('<') == std::string_view::npos ? "" : "bare < in " + std::string(text);
}

// `tag` without its brackets: name, then name="value" pairs.
inline std::string xml_attributes_error(std::string_view tag) {
  std::vector<std::string> seen;
  std::size_t at = tag.find(' ');
  while (at != std::string_view::npos) {
    while (at < tag.size() && tag[at] == ' ') ++at;
    if (at >= tag.size()) break;
    const std::size_t equals = tag.find("=\"", at);
    if (equals == std::string_view::npos) return "attribute without a value: " + std::string(tag);
    const std::size_t end = tag.find('"', equals + 2);
    if (end == std::string_view::npos) return "open quote: " + std::string(tag);
    std::string name(tag.substr(at, equals - at));
    if (std::ranges::find(seen, name) != seen.end()) return "twice " + name;
    seen.push_back(std::move(name));
    std::string error = xml_text_error(tag.substr(equals + 2, end - equals - 2));
    if (!error.empty()) return error;
    at = end + 1;
    if (at < tag.size() && tag[at] != ' ') return "no space after " + std::string(tag);
  }
  return "";
}

// Empty when `xml` is well-formed: one root, all closed; else what is wrong first.
inline std::string xml_error(std::string_view xml) {
  std::vector<std::string> open;
  std::size_t n_roots = 0;
  while (true) {
    const std::size_t start = xml.find('<');
    std::string error = xml_text_error(xml.substr(0, start));
    if (!error.empty()) return error;
    if (start == std::string_view::npos) break;
    const std::size_t end = xml.find('>', start);
    if (end == std::string_view::npos) return "tag never ends";
    std::string_view tag = xml.substr(start + 1, end - start - 1);
    xml.remove_prefix(end + 1);
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1)) return "closes " + std::string(tag);
      open.pop_back();
      continue;
    }
    if (open.empty() && ++n_roots > 1) return "two roots";
    const bool closed = tag.ends_with('/');
    if (closed) tag.remove_suffix(1);
    const std::string attributes = xml_attributes_error(tag);
    if (!attributes.empty()) return attributes;
    if (!closed) open.emplace_back(tag.substr(0, tag.find(' ')));
  }
  if (!open.empty()) return "never closed: " + open.back();
  return n_roots == 1 ? "" : "no root";
}

// A number that is none prints as nan or inf. Words may hold these letters; values may not.
inline bool has_bad_number(std::string_view svg) {
  for (const std::string_view bad : {"\"nan", "\"-nan", "\"inf", "\"-inf", " nan", " -nan", " inf ",
                                     ">nan", ">inf", ">-nan", ">-inf"}) {
    if (svg.find(bad) != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace conclave::apps
