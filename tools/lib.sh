# shellcheck shell=bash
# What every part of ./dev uses to talk: steps, logs, errors.

step() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
  printf 'dev: %s\n' "$*" >&2
  exit 1
}

# logged LOG COMMAND...: output goes to LOG, one line of it to the screen every 15 s.
logged() {
  local log=$1 line next=$((SECONDS + 15))
  shift
  mkdir -p "$(dirname "$log")"
  printf '+ %s\n' "$*" >>"$log"
  {
    "$@" 2>&1 </dev/null | while IFS= read -r line; do
      printf '%s\n' "$line"
      if ((SECONDS >= next)); then
        note "${line:0:96}" >&3
        next=$((SECONDS + 15))
      fi
    done >>"$log"
  } 3>&1
}

# The same, but a failure shows the end of LOG and ends ./dev.
quietly() {
  local log=$1
  logged "$@" && return
  tail -n 30 "$log" >&2
  die "'${*:2}' failed; all of its output is in $log"
}
