#!/usr/bin/env bash
# Runs one phase and prints how many seconds it took: phase.sh NAME COMMAND …
set -uo pipefail
name=$1
shift
begin=$(date +%s)
"$@"
status=$?
echo "== $name: $(($(date +%s) - begin)) s$([ $status = 0 ] || echo ", failed with exit code $status")"
exit $status
