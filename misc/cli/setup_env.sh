# Sourced by the scripts, with the folder of the project in `project`: sets PYTHON to an interpreter
# that has the packages of a requirements file, after installing them into .venv where none has. One
# that the user names is taken or refused.
#   find_python REQUIREMENTS_FILE MODULE...
find_python() {
    local requirements=$1
    shift
    if [ -n "${PYTHON:-}" ]; then
        require_python "$requirements" "$@"
        return
    fi
    local candidate lacking
    for candidate in "$project/.venv/bin/python" python3; do
        if command -v "$candidate" > /dev/null && lacking=$(lacking_modules "$candidate" "$@") && [ -z "$lacking" ]; then
            PYTHON=$candidate
            return
        fi
    done
    if ! command -v python3 > /dev/null; then
        echo "error: python3 is missing; install Python 3.10 or newer (apt-get install python3 python3-venv)" >&2
        exit 2
    fi
    local environment=$project/.venv log
    echo "Installing the packages of $requirements into $environment (once; PyTorch is several GB) ..."
    if ! python3 -m venv "$environment" || ! "$environment/bin/python" -m pip --version > /dev/null; then
        echo "error: python3 cannot make a virtual environment with pip; apt-get install python3-venv" >&2
        exit 2
    fi
    log=$(mktemp)
    if ! install_packages "$environment/bin/python" "$requirements" 2>&1 | tee "$log" >&2; then
        echo "error: $(reason_of_failure "$log" "$requirements")" >&2
        rm -f "$log"
        exit 2
    fi
    rm -f "$log"
    PYTHON=$environment/bin/python
}

# At the start of a piece of Python: Ctrl-C ends it without a word.
SILENTLY="import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"

# The modules that an interpreter lacks, with commas; it fails where it cannot be run.
#   lacking_modules PYTHON MODULE...
lacking_modules() {
    local python=$1
    shift
    local lacking="import importlib.util as u, sys
old = ['Python 3.10 or newer'] if sys.version_info < (3, 10) else []
print(', '.join(old + [m for m in sys.argv[1:] if u.find_spec(m) is None]))"
    "$python" -c "$SILENTLY; $lacking" "$@" 2> /dev/null
}

# Ends with a line unless the interpreter in PYTHON can be used: nothing is installed in its place.
#   require_python REQUIREMENTS_FILE MODULE...
require_python() {
    local requirements=$1 lacking
    shift
    if ! command -v "$PYTHON" > /dev/null; then
        echo "error: PYTHON=$PYTHON: no such program; correct it, or leave it out" >&2
        exit 2
    fi
    if ! lacking=$(lacking_modules "$PYTHON" "$@"); then
        echo "error: PYTHON=$PYTHON: cannot be run as Python; correct it, or leave it out" >&2
        exit 2
    fi
    if [ -n "$lacking" ]; then
        echo "error: PYTHON=$PYTHON: lacks $lacking; install the packages of $requirements for it," \
            "or leave PYTHON out: they are installed into $project/.venv then" >&2
        exit 2
    fi
}

# What pip's messages in a file come to, in one line.
reason_of_failure() {
    local offline="new connection|name resolution|NewConnectionError|Network is unreachable|timed out|ProxyError"
    if grep -qi "no space left" "$1"; then
        echo "the disk is full; the packages of $2 need 8 GB"
    elif grep -qiE "$offline" "$1"; then
        echo "the package index cannot be reached; go online, or give PYTHON=... with the packages of $2"
    elif grep -qi "pydensecrf2" "$1" && ! command -v c++ > /dev/null; then
        echo "pydensecrf2 is compiled when it is installed and no C++ compiler is here;" \
            "apt-get install build-essential python3-dev"
    else
        echo "the packages of $2 could not be installed; see pip's message above"
    fi
}

# Installs a requirements file for an interpreter.
#   install_packages PYTHON REQUIREMENTS_FILE
install_packages() {
    local pip="$1 -m pip install --quiet"
    # pydensecrf2 asks for a Cython whose code no longer compiles on Python 3.13; a newer one does.
    if "$1" -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
        $pip "Cython>=3" setuptools wheel && $pip --no-build-isolation "pydensecrf2>=1.1" || return
    fi
    $pip --requirement "$2"
}

# Modules that requirements.txt brings.
PROJECT_MODULES="torch torchvision numpy scipy imageio PIL simplejpeg cv2 pydensecrf pycocotools defusedxml tqdm matplotlib pandas filelock"
