#!/usr/bin/env bash
# All tests; sets itself up. Further words go to pytest, e.g. bash tests/run.sh -k rib
set -euo pipefail
cd "$(dirname "$0")/.."
project=$PWD
source misc/cli/setup_env.sh
find_python tests/requirements.txt $PROJECT_MODULES pytest
exec "$PYTHON" -m pytest tests -q "$@"
