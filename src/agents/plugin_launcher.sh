#!/bin/sh
# Starts slm-mesh for a plugin: the installed program, or else the one that npx fetches.
if command -v slm-mesh >/dev/null 2>&1; then
  exec slm-mesh "$@"
fi
if ! command -v npx >/dev/null 2>&1; then
  echo "slm-mesh is not installed; install it with npm install -g slm-mesh, or pip install slm-mesh" >&2
  # A hook that fails must not stop the agent.
  [ "$1" = hook ] && exit 0
  exit 127
fi
if [ "$1" = hook ]; then
  npx --yes --quiet slm-mesh@@VERSION@ "$@" || exit 0
else
  exec npx --yes --quiet slm-mesh@@VERSION@ "$@"
fi
