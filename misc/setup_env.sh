# Sourced by the scripts: sets PYTHON to an interpreter that has the packages of a requirements
# file, after installing them into .venv where no interpreter has them yet.
#   find_python REQUIREMENTS_FILE MODULE...
find_python() {
    local requirements=$1
    shift
    local missing='import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))'
    local candidate
    for candidate in "${PYTHON:-}" .venv/bin/python python3; do
        if [ -n "$candidate" ] && command -v "$candidate" > /dev/null && "$candidate" -c "$missing" "$@"; then
            PYTHON=$candidate
            return
        fi
    done
    if ! command -v python3 > /dev/null; then
        echo "error: python3 is missing; install Python 3.10 or newer (apt-get install python3 python3-venv)" >&2
        exit 2
    fi
    echo "Installing the packages of $requirements into .venv (once; PyTorch is several GB) ..."
    if ! python3 -m venv .venv; then
        echo "error: python3 cannot make a virtual environment; apt-get install python3-venv" >&2
        exit 2
    fi
    if ! install_packages .venv/bin/python "$requirements"; then
        if ! command -v cc > /dev/null || ! command -v c++ > /dev/null; then
            echo "error: pydensecrf2 is compiled when it is installed and no C++ compiler is here;" \
                "apt-get install build-essential python3-dev" >&2
        else
            echo "error: the packages of $requirements could not be installed; see pip's message above" >&2
        fi
        exit 2
    fi
    PYTHON=.venv/bin/python
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
PROJECT_MODULES="torch torchvision numpy scipy imageio PIL simplejpeg cv2 pydensecrf pycocotools defusedxml tqdm matplotlib"
