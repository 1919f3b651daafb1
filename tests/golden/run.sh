#!/usr/bin/env bash
# Checks the float64 reference, then the engine against it: toy checkpoints, the same in the formats of
# other programs, broken ones, Ember.
#
# Usage: run.sh CONCLAVE BUILD_DIR [reference|toys|formats|broken|ember ...]
#
# Makes the checkpoints under BUILD_DIR once per version of their generator. Needs NumPy, no network.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: $0 CONCLAVE BUILD_DIR [reference|toys|formats|broken|ember ...]" >&2
  exit 2
fi
conclave=$(realpath "$1")
build=$(realpath -m "$2")
shift 2
parts=("$@")
if [[ ${#parts[@]} -eq 0 ]]; then
  parts=(reference toys formats broken ember)
fi

reference=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../tools/reference")
python=${PYTHON:-/usr/bin/python3}
export PYTHONDONTWRITEBYTECODE=1
# Small matrices: more threads than one only get in each other's way.
export OPENBLAS_NUM_THREADS=1

# make_once GENERATOR FOLDER [ARGUMENTS...]: runs the generator unless the folder was made by the same sources.
make_once() {
  local hash
  hash="$(cat "$reference"/*.py "$reference/../../models/ember/golden.json" | sha256sum | cut -d ' ' -f 1) ${*:3}"
  if [[ -f "$2/.made_by" && $(<"$2/.made_by") == "$hash" ]]; then
    return
  fi
  rm -rf "$2"
  mkdir -p "$2"
  "$python" "$reference/$1" "$2" "${@:3}"
  echo "$hash" >"$2/.made_by"
}

failed=0
for part in "${parts[@]}"; do
  case $part in
    reference)
      "$python" "$reference/test_reference.py" || failed=1
      ;;
    toys)
      make_once make_toys.py "$build/toys"
      "$python" "$reference/check_toys.py" --conclave "$conclave" --toys "$build/toys" || failed=1
      ;;
    formats)
      make_once recast_toys.py "$build/formats"
      "$python" "$reference/check_toys.py" --conclave "$conclave" --toys "$build/formats" || failed=1
      make_once recast_ember.py "$build/ember_gguf"
      "$python" "$reference/check_ember.py" --conclave "$conclave" --model "$build/ember_gguf" || failed=1
      ;;
    broken)
      make_once make_broken.py "$build/broken"
      "$python" "$reference/check_broken.py" --conclave "$conclave" --dir "$build/broken" || failed=1
      ;;
    ember)
      "$python" "$reference/check_ember.py" --conclave "$conclave" || failed=1
      ;;
    *)
      echo "$0: unknown part '$part'" >&2
      exit 2
      ;;
  esac
done
exit $failed
