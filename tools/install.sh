#!/bin/sh
# Makes .venv hold exactly what requirements.lock pins, plus this package in editable form. Called by `make install`.
#   tools/install.sh          install
#   tools/install.sh uv ARGS  run uv with ARGS, installing uv first where it is missing
# Needs a Python of 3.11 to 3.13 with venv or pip. PYTHON=... picks another interpreter.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
stamp=.venv/.installed
unfinished=.venv/.unfinished
private=.cache/uv
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME UV_SYSTEM_PYTHON UV_PYTHON 2>/dev/null || true

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# Prints the path of the first supported interpreter. A version manager's launcher may exist without working, so run it.
find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c "$supported" >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        elif [ "$candidate" = "${PYTHON:-}" ]; then
            fail "PYTHON=$PYTHON is not a Python of 3.11, 3.12 or 3.13"
        fi
    done
    found=$(python3 --version 2>/dev/null || echo "no python3")
    fail "Python 3.11, 3.12 or 3.13 is needed, found $found. Install one, or name it: make install PYTHON=<its path>"
}

# Prints the path of a uv that runs: the one on PATH, else a private one below .cache.
find_uv() {
    for candidate in uv "$here/$private/bin/uv"; do
        if "$candidate" --version >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    echo "installing uv into $private (once)" >&2
    rm -rf "$private"
    # Without ensurepip there is no venv, and a distribution's Python may take no packages: --target suits both.
    if "$python" -m venv "$private" >/dev/null 2>&1; then
        "$private/bin/python" -m pip install --quiet uv >&2 || fail "pip could not install uv; its message is above"
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --target "$private" uv >&2 ||
            fail "pip could not install uv; its message is above"
    else
        fail "$python has neither venv nor pip. Install one of them (on Debian or Ubuntu: python3-venv), or uv itself"
    fi
    "$here/$private/bin/uv" --version >/dev/null 2>&1 ||
        fail "the uv in $private does not run; install uv by other means and put it on PATH"
    echo "$here/$private/bin/uv"
}

# The setting $1 of pip, from its environment variable $2 or its files; empty where there is none.
of_pip() {
    eval "value=\${$2:-}"
    if [ -z "$value" ]; then # "config get" would look into one of pip's files only
        value=$("$python" -m pip config list 2>/dev/null | sed -n "s/^global\.$1='\(.*\)'\$/\1/p")
    fi
    echo "$value"
}

# uv does not read pip's settings: where pip was told of a mirror or of certificates and uv was not, pass them on.
share_settings_of_pip() {
    if [ -z "${SSL_CERT_FILE:-}" ]; then
        SSL_CERT_FILE=$(of_pip cert PIP_CERT)
        if [ -n "$SSL_CERT_FILE" ]; then export SSL_CERT_FILE; else unset SSL_CERT_FILE; fi
    fi
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}${UV_CONFIG_FILE:-}" ] &&
        [ ! -e "${XDG_CONFIG_HOME:-${HOME:-}/.config}/uv/uv.toml" ] && [ ! -e /etc/uv/uv.toml ]; then
        UV_DEFAULT_INDEX=$(of_pip index-url PIP_INDEX_URL)
        if [ -n "$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX; else unset UV_DEFAULT_INDEX; fi
    fi
}

# A half-filled .venv looks complete to an installer, and one that was moved points back to where it was made.
reusable() {
    [ ! -e "$unfinished" ] && .venv/bin/python -c "$supported" >/dev/null 2>&1 &&
        grep -qF "$here/.venv" .venv/bin/activate
}

install() {
    reused=true
    if ! reusable; then
        reused=false
        rm -rf .venv
        "$uv" venv --quiet --python "$python" .venv
    fi
    : >"$unfinished"
    rm -f "$stamp"
    if $reused; then
        echo "bringing .venv up to date with requirements.lock"
    else
        count=$(grep -c '^[a-zA-Z0-9].*==' requirements.lock)
        echo "installing about $count packages into .venv (once; a minute or a few, with the download)"
    fi
    "$uv" pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock ||
        fail "the packages could not be installed; the reason is above. Nothing else was changed: call make again"
    # setuptools is among the pinned packages, so that the build needs no second environment and no network.
    "$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable . ||
        fail "this package could not be installed; the reason is above"
    rm -f "$unfinished"
    echo "$here" >"$stamp"
}

python=$(find_python)
uv=$(find_uv)
share_settings_of_pip
if [ "${1:-}" = uv ]; then
    shift
    exec "$uv" "$@"
fi
install
