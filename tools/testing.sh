# shellcheck shell=bash
# Runs tests and fuzzers and counts them. The counts come from what ran, never from what should.

PASSED=0
FAILED=0
SKIPPED=0

export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

# Adds the counts of one ctest run; one that ran nothing counts as a failure.
add_ctest() { # NAME REPORTS STATUS STARTED
  local passed failed skipped
  read -r passed failed skipped < <(/usr/bin/python3 tools/count_tests.py "$2/ctest.xml" "$2/cases")
  if (($3 != 0 && failed == 0)) || ((passed + failed == 0)); then failed=1; fi
  PASSED=$((PASSED + passed))
  FAILED=$((FAILED + failed))
  SKIPPED=$((SKIPPED + skipped))
  note "$1: $passed passed, $failed failed, $skipped skipped, $((SECONDS - $4)) s"
}

run_ctest() { # TREE LABELS JOBS [more ctest arguments]
  local tree=$1 labels=$2 jobs=$3 started=$SECONDS status=0
  local reports="$ROOT/build/logs/$tree-${labels//|/-}"
  local log="$reports/ctest.log"
  shift 3
  rm -rf "$reports"
  mkdir -p "$reports/cases"
  GTEST_OUTPUT="xml:$reports/cases/" logged "$log" ctest --test-dir "build/$tree" \
    -L "^($labels)\$" -j "$jobs" --no-tests=error --output-on-failure --timeout 900 \
    --output-junit "$reports/ctest.xml" "$@" || status=$?
  if ((status != 0)); then
    tail -n 80 "$log"
    note "all of it is in ${log#"$ROOT/"}"
  fi
  add_ctest "$tree $labels" "$reports" "$status" "$started"
  return "$status"
}

# Names of the fuzzers: fuzz/fuzz_NAME.cc.
fuzzers() {
  local source
  for source in fuzz/fuzz_*.cc; do
    source=${source##*/fuzz_}
    printf '%s\n' "${source%.cc}"
  done
}

fuzz_targets() { fuzzers | sed 's/^/fuzz_/'; }

# fuzz_arguments NAME: what every run of a fuzzer gets. New inputs stay in build/.
fuzz_arguments() {
  mkdir -p "build/asan/corpus/$1" build/asan/found
  printf '%s\n' "-artifact_prefix=build/asan/found/$1-" -timeout=20 -rss_limit_mb=4096 \
    -print_final_stats=1 "build/asan/corpus/$1"
  [[ ! -d fuzz/corpus/$1 ]] || printf '%s\n' "fuzz/corpus/$1"
}

# fuzz_one NAME SECONDS: leaves the number of inputs tried in FUZZ_RUNS.
fuzz_one() {
  local log="build/logs/fuzz-$1.log" status=0 arguments
  mapfile -t arguments < <(fuzz_arguments "$1")
  rm -f "$log"
  logged "$log" "build/asan/fuzz_$1" "-max_total_time=$2" "${arguments[@]}" || status=$?
  FUZZ_RUNS=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
  FUZZ_RUNS=${FUZZ_RUNS:-0}
  if ((status == 0 && FUZZ_RUNS > 0)); then
    PASSED=$((PASSED + 1))
    note "fuzz_$1: $FUZZ_RUNS inputs in $2 s"
    return 0
  fi
  FAILED=$((FAILED + 1))
  tail -n 40 "$log"
  note "fuzz_$1 FAILED; all of it is in $log"
  return 1
}

fuzz_all() { # SECONDS each
  local name status=0
  for name in $(fuzzers); do fuzz_one "$name" "$1" || status=1; done
  return "$status"
}

# The closing line, alone on a line. Fails when anything failed or nothing ran.
summary() {
  printf '\n%d passed, %d failed' "$PASSED" "$FAILED"
  if ((SKIPPED > 0)); then printf ', %d skipped' "$SKIPPED"; fi
  printf '\n'
  ((FAILED == 0 && PASSED > 0))
}
