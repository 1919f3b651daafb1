// conclave model synth: a checkpoint with random weights in the shape of a published family.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "apps/interrupts.h"
#include "apps/options.h"
#include "apps/program.h"
#include "apps/synth_model.h"
#include "apps/synth_writer.h"

namespace conclave::apps {
namespace {

// Two threads fill a disk of 4 GB/s.
constexpr std::size_t kThreads = 2;

struct SynthOptions {
  SynthRequest request;
  std::string out;
};

Result<int> run_synth(Program& program, const SynthOptions& options) {
  const Result<SynthModel> wanted = synth_model(options.request);
  if (!wanted) {
    const bool usage = wanted.error().code == ErrorCode::kInvalidInput;
    return usage ? usage_error(program, wanted.error()) : wanted.error();
  }
  const Time start = program.clock.now();
  ProgressLine line(program.clock, program.terminal, "writing", /*quiet=*/false);
  InterruptGuard interrupts;
  std::uint64_t written = 0;
  SynthProgress progress;
  progress.update = [&](std::uint64_t done, std::uint64_t total) {
    written = total;
    line.update_bytes(done, total);
  };
  progress.stop_wanted = [&interrupts] { return interrupts.pending(); };
  const Result<void> result = write_checkpoint(*wanted, options.out, kThreads, progress);
  line.clear();
  if (!result && interrupts.take()) return kExitInterrupted;
  if (!result) return result.error();
  const double elapsed = seconds(program.clock.now() - start);
  TRY(program.output.write(
      fmt::format("{}: {} in {:.1f} s\n", options.out, human_bytes(written), elapsed)));
  return kExitOk;
}

void add_shape_options(CLI::App& command, SynthRequest& request) {
  command.add_option("--layers", request.layers, "layers in all")->check(CLI::Range(1, 1000));
  command.add_option("--dense", request.dense, "layers without experts, from the first")
      ->check(CLI::Range(0, 1000));
  command.add_option("--experts", request.experts, "routed experts per layer")
      ->check(CLI::Range(1, 65535));
  command.add_option("--vocab", request.vocab, "rows of the vocabulary")
      ->check(CLI::Range(512, 1 << 20));
  command.add_option("--context", request.context, "positions")->check(CLI::Range(1, 1 << 24));
}

}  // namespace

void add_synth_command(CLI::App& model, Program& program) {
  CLI::App* command = model.add_subcommand(
      "synth", "Write a checkpoint with random weights: official names, shapes and formats");
  auto options = std::make_shared<SynthOptions>();  // shared: CLI11 copies the callback
  SynthRequest& request = options->request;
  command->add_option("--like", request.like, "family whose sizes to take")
      ->check(CLI::IsMember({"kimi-k2", "deepseek-v3", "qwen3-30b", "ember"}));
  command
      ->add_option("--preset", request.preset,
                   "a shape for benchmarks: m1 (DeepSeek-V2-Lite), m2 (3 Kimi K2 layers, 96 "
                   "experts), m3 (24 Qwen3-30B layers); other flags change it")
      ->check(CLI::IsMember({"m1", "m2", "m3"}));
  add_shape_options(*command, request);
  command
      ->add_option("--quant", request.quant,
                   "official: as the family ships; int4-g32: experts INT4, rest BF16; int8: BF16 "
                   "with values that --weights int8 keeps without loss; bf16")
      ->check(CLI::IsMember({"official", "int4-g32", "int8", "bf16"}))
      ->capture_default_str();
  command->add_option("--seed", request.seed, "other weights")
      ->check(not_negative)
      ->capture_default_str();
  command->add_option("--out", options->out, "folder to make")->required();
  command->callback([&program, options] {
    program.action = [&program, options] { return run_synth(program, *options); };
  });
}

}  // namespace conclave::apps
