#!/usr/bin/env bash
# All tests; sets itself up. Further words go to pytest, e.g. bash tests/run.sh -k rib
set -euo pipefail
cd "$(dirname "$0")/.."
project=$PWD
source misc/cli/setup_env.sh
find_python tests/requirements.txt $PROJECT_MODULES pytest xdist
# Tests compute with one thread each: several files run at a time.
workers=$("$PYTHON" -c 'import os; print(min(4, os.cpu_count() or 1))')
exec "$PYTHON" -m pytest tests -q -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
