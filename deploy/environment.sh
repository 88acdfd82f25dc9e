# For the checks in this folder, which source it.

# environment NAME REQUIREMENTS: the folder of a virtual environment with what that file names, made if need be.
# It is kept in the user's cache, until the file or the Python is another one.
environment() {
    local python=${PYTHON:-python3} folder
    folder=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/syncer/$1-$({ cat "$2"; "$python" -V; } | cksum | cut -d' ' -f1)
    if [[ ! -e $folder/complete ]]; then
        echo "== An environment for $1, in $folder" >&2
        rm -rf "$folder"
        "$python" -m venv "$folder"
        "$folder/bin/python" -m pip install -qq --disable-pip-version-check -r "$2" >&2
        touch "$folder/complete"
    fi
    echo "$folder"
}

# syncer_environment: likewise, with this checkout's syncer in it; the checkout's own .venv, if there is one.
syncer_environment() {
    local checkout folder
    checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    folder=$checkout/.venv
    if [[ ! -x $folder/bin/syncer ]]; then
        folder=$(environment syncer "$checkout/requirements.lock")
        "$folder/bin/python" -m pip install -qq --no-deps --no-build-isolation -e "$checkout" >&2
    fi
    echo "$folder"
}
