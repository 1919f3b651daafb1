# shellcheck shell=bash
# ./dev ci --long: what takes too long for every change. Writes its table to docs/long-run.md.
# CONCLAVE_LONG_FUZZ_S (seconds for each fuzzer), CONCLAVE_LONG_KILLS, CONCLAVE_LONG_LOSSES and
# CONCLAVE_LONG_CALM_S shorten a trial.

readonly LONG_REPORT=docs/long-run.md
LONG_ROWS=()
LONG_STATUS=0

long_row() { # WHAT RESULT STARTED STATUS
  local verdict=passed
  if (($4 != 0)); then
    verdict=FAILED
    LONG_STATUS=1
  fi
  LONG_ROWS+=("| $1 | $verdict | $2 | $((SECONDS - $3)) s |")
  note "$1: $verdict: $2"
  write_long_report  # after each row: what is cut off leaves what it has
}

long_tsan() {
  local started=$SECONDS before=$PASSED status=0
  build_tree tsan
  step "tests: thread sanitizer"
  run_ctest tsan unit "$(nproc)" || status=1
  long_row 'unit tests, thread sanitizer' "$((PASSED - before)) tests" "$started" "$status"
}

long_fuzz() {
  local name targets started status limit=${CONCLAVE_LONG_FUZZ_S:-600}
  mapfile -t targets < <(fuzz_targets)
  build_tree asan "${targets[@]}"
  step "fuzzers: $limit s each"
  for name in $(fuzzers); do
    started=$SECONDS status=0
    fuzz_one "$name" "$limit" || status=1
    long_row "fuzz_$name, address and undefined-behaviour sanitizers" "$FUZZ_RUNS inputs" \
      "$started" "$status"
  done
}

long_stress() {
  local started=$SECONDS status=0 log=build/logs/stress.log kills=${CONCLAVE_LONG_KILLS:-50}
  build_tree release
  step "killing the worker $kills times under load"
  rm -f "$log"
  logged "$log" /usr/bin/python3 tools/stress_worker.py build/release/conclave models/ember \
    "$kills" || status=1
  if ((status != 0)); then tail -n 30 "$log"; fi
  long_row 'worker killed under load' "$(tail -n 1 "$log")" "$started" "$status"
}

long_pool() { # WHAT KIND AMOUNT
  local started=$SECONDS status=0 log=build/logs/pool-$2.log
  build_tree release
  step "$1"
  rm -f "$log"
  logged "$log" /usr/bin/python3 tests/e2e/stress_pool.py "$2" "$3" || status=1
  if ((status != 0)); then tail -n 60 "$log"; fi
  long_row "$1" "$(tail -n 1 "$log")" "$started" "$status"
}

# Debian 12's takes five times as long, in the system's headers, and is wrong about `<=>`.
readonly CLANG_TIDY_VERSION=23.1.4
readonly CLANG_TIDY_HOME=build/clang-tidy

install_clang_tidy() {
  [[ -x $CLANG_TIDY_HOME/bin/clang-tidy ]] && return
  python3 -m venv "$CLANG_TIDY_HOME" \
    && "$CLANG_TIDY_HOME/bin/pip" install --quiet "clang-tidy==$CLANG_TIDY_VERSION"
}

tidy_sources() {
  source_files | grep '^src/.*\.cc$' | grep -v '/neon/' \
    | xargs -P "$(nproc)" -n 1 "$CLANG_TIDY_HOME/bin/clang-tidy" --quiet -p build/release \
      --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-deprecated-declarations
}

long_clang_tidy() {
  local started=$SECONDS status=0 log=build/logs/clang-tidy.log found
  step "clang-tidy on all files"
  rm -f "$log"
  logged "$log" install_clang_tidy && logged "$log" tidy_sources || status=1
  found=$(grep -c 'error:' "$log" || true)
  if ((status != 0)); then grep 'error:' "$log" | head -n 40; fi
  long_row 'clang-tidy on all files' "$found findings" "$started" "$status"
}

write_long_report() {
  {
    cat <<'TEXT'
# The last long run

Written by `./dev ci --long`, which runs what takes too long for every change. Fuzzers start from
`fuzz/corpus/`.

TEXT
    printf 'Machine: %s, %d cores.\n\n' \
      "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)" "$(nproc)"
    printf '| what | verdict | result | time |\n|---|---|---|---|\n'
    printf '%s\n' "${LONG_ROWS[@]}"
  } >"$LONG_REPORT"
}

long_run() {
  long_tsan
  long_fuzz
  long_stress
  long_pool 'a pool of three loses machines at random' losses "${CONCLAVE_LONG_LOSSES:-200}"
  long_pool 'a pool of five under load, left alone' calm "${CONCLAVE_LONG_CALM_S:-600}"
  long_clang_tidy
  step "wrote $LONG_REPORT"
  cat "$LONG_REPORT"
  summary && ((LONG_STATUS == 0))
}
