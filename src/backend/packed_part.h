// Packed weights from elsewhere: a machine without the checkpoint's files receives exactly its
// slices from a peer, already packed. Panels are the same for every instruction set.
//
// A PackedPart names some panels of one matrix. Its encoding comes from a peer, so `decode_part`
// checks the fields against each other and `pack_part` checks them against the checkpoint.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/model.h"

namespace conclave::backend {

// Larger matrices are read in several parts, whole panels each.
inline constexpr std::size_t kPartBytesMax = std::size_t{32} << 20;
inline constexpr std::size_t kPartDimensionMax = std::size_t{1} << 26;  // rows, columns

// The panels of the sub-matrix rows x cols of one weight, packed by kernels::pack_panel; of an
// embedding of plain numbers, its rows as the file has them.
struct PackedPart {
  LayerId layer;  // 0 for the embedding and the head
  model::Weight weight = model::Weight::kQ;
  ExpertId expert;  // 0 for all but kExpert*
  kernels::Range rows, cols;
  bool transposed = false;
  kernels::PackedFormat format = kernels::PackedFormat::kF32;
  bool operator==(const PackedPart&) const = default;

  // Rows of the packed matrix, and its columns.
  std::size_t lanes() const { return transposed ? cols.size() : rows.size(); }
  std::size_t inputs() const { return transposed ? rows.size() : cols.size(); }
  std::size_t block_offset() const;  // kFp8: as in kernels::PackedMatrix
  bool in_rows() const;              // not in panels
  std::size_t size_bytes() const;
};

std::string describe(const PackedPart& part);  // for errors and logs

// 0 version u8 · 1 weight u8 · 2 format u8 · 3 transposed u8 · 4 layer u16 · 6 expert u16
// 8 rows u32 x 2 · 16 columns u32 x 2 · 24 size_bytes u64, little-endian. The size is there so that
// two builds with different panels notice.
inline constexpr std::size_t kPartEncodingSize = 32;
inline constexpr std::uint8_t kPartVersion = 2;

std::array<std::byte, kPartEncodingSize> encode_part(const PackedPart& part);
// kCorrupt names the field that is wrong. What decodes encodes to the same bytes, is not empty and
// takes at most kPartBytesMax.
Result<PackedPart> decode_part(std::span<const std::byte> bytes);

// Packs a part whose fields anybody may have chosen; `out` must have its size. Checks the values of
// the rows that it reads (ModelSource::check) and drops their pages. Errors: a part that this
// checkpoint does not have or that cannot be packed so; corrupt weights.
Result<void> pack_part(const model::ModelSource& source, const PackedPart& part, ThreadPool& pool,
                       std::span<std::byte> out);

// Where load_common and load_slice take the weights from.
class PackedSource {
 public:
  virtual ~PackedSource() = default;
  // The parts that will be read, in this order; called once, before the first read. The span lives
  // until the last read. A source at the far end of a link asks for several ahead.
  virtual void announce(std::span<const PackedPart> parts) = 0;
  // An error ends the loading; the arena keeps the parts before.
  virtual Result<void> read(const PackedPart& part, std::span<std::byte> out) = 0;
};

// From a checkpoint in this machine's files. Both references must outlive it.
class LocalPackedSource final : public PackedSource {
 public:
  LocalPackedSource(const model::ModelSource& source, ThreadPool& pool)
      : source_(source), pool_(pool) {}
  void announce(std::span<const PackedPart>) override {}
  Result<void> read(const PackedPart& part, std::span<std::byte> out) override {
    return pack_part(source_, part, pool_, out);
  }

 private:
  const model::ModelSource& source_;
  ThreadPool& pool_;
};

}  // namespace conclave::backend
