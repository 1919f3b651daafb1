// Ids are types: an ExpertId where a LayerId is wanted does not compile.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace conclave {

template <class Tag, class Rep>
struct Id {
  Rep value = 0;
  constexpr auto operator<=>(const Id&) const = default;
};

using LayerId = Id<struct LayerTag, std::uint16_t>;
using ExpertId = Id<struct ExpertTag, std::uint16_t>;
using TokenId = Id<struct TokenTag, std::uint32_t>;
using RequestId = Id<struct RequestTag, std::uint64_t>;

}  // namespace conclave

template <class Tag, class Rep>
struct std::hash<conclave::Id<Tag, Rep>> {
  std::size_t operator()(const conclave::Id<Tag, Rep>& id) const {
    return std::hash<Rep>{}(id.value);
  }
};
