#!/bin/sh
# Breaks a copy of the core on purpose, in one place after the other, and says how fast the simulator
# finds it. Fails if it does not find one, or if a break no longer fits the source.
# usage: breaks.sh [NAME…]; SEEDS=20 STEPS=50000 bound the search.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cargo=${CARGO:-cargo}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
# Always the same place, so that the next run finds its dependencies built.
copy="$CARGO_TARGET_DIR/breaks"
trap 'rm -rf "$copy"' EXIT INT TERM
status=0
[ $# -gt 0 ] || set -- $(cd "$here/breaks" && ls | sed 's/\.patch$//')
for name in "$@"; do
  rm -rf "$copy/tree"
  mkdir -p "$copy/tree"
  (cd "$root" && tar -cf - --exclude=./target --exclude=./.git .) | tar -xf - -C "$copy/tree"
  # Sources that are older than what was built from another break would not be built again.
  find "$copy/tree/src" -name '*.rs' -exec touch {} +
  if ! (cd "$copy/tree" && patch -p1 --quiet --forward < "$here/breaks/$name.patch"); then
    echo "$name: the break does not fit the source any more"
    status=1
    continue
  fi
  (cd "$copy/tree" && $cargo test --locked --quiet --test simulate --no-run)
  began=$(date +%s.%N)
  if out=$(cd "$copy/tree" && SLM_MESH_SIM_SEED=1 SLM_MESH_SIM_SEEDS="${SEEDS:-20}" SLM_MESH_SIM_STEPS="${STEPS:-50000}" \
      RUST_BACKTRACE=0 $cargo test --locked --quiet --test simulate the_promises -- --nocapture 2>&1); then
    echo "$name: NOT FOUND in ${SEEDS:-20} seeds of ${STEPS:-50000} steps"
    status=1
  else
    ended=$(date +%s.%N)
    found=$(echo "$out" | grep -o 'seed [0-9]* broke a promise at step [0-9]*' | head -1 || true)
    why=$(echo "$out" | grep -A1 'panicked at tests/simulate/' | sed -n 2p | cut -c1-110 || true)
    if [ -z "$found" ]; then
      echo "$name: the run failed, but not because of a promise:"
      echo "$out" | tail -20
      status=1
    else
      echo "$name: found by $(echo "$found" | sed 's/ broke a promise at/,/') in $(echo "$ended $began" | awk '{printf "%.1f", $1 - $2}') s: $why"
    fi
  fi
done
exit $status
