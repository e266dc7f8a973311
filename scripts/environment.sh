# Sourced by the scripts: makes .venv and installs a requirements file and the development tools, once.
#   REQUIREMENTS  which file (on GPU hosts requirements-gpu.txt, on TPU hosts requirements-tpu.txt; default: the one that
#                 .venv was made with, at first requirements.txt).  Another file makes .venv anew, a changed one installs again.
#   PYTHON        which interpreter (default: the first of python3.11, python3.12, python3.13, python3 that fits)
# Afterwards $python is the environment's interpreter and the working directory is the project's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
made_with=$(cat .venv/.requirements 2>/dev/null || true)
REQUIREMENTS=${REQUIREMENTS:-${made_with:-requirements.txt}}
[ -f "$REQUIREMENTS" ] || { echo "no file $REQUIREMENTS (REQUIREMENTS)" >&2; exit 1; }
python=.venv/bin/python

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  return 1
}

found_pythons() {
  local name versions=""
  for name in ${PYTHON:-python3}; do
    versions+="${versions:+, }$name: $("$name" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo none)"
  done
  echo "$versions"
}

make_environment() {
  local base
  if base=$(find_python); then
    "$base" -m venv --clear .venv >/dev/null 2>&1 && return
    rm -rf .venv
    if command -v uv >/dev/null; then uv venv --seed --python "$base" .venv && return; fi
    echo "$base can't make virtual environments here: install its venv module (Debian, Ubuntu: apt-get install python3-venv) or uv." >&2
  elif command -v uv >/dev/null; then
    uv venv --seed --python 3.11 .venv && return
  else
    echo "Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no wheels for others), found: $(found_pythons)." >&2
    echo "Install one, or name one with PYTHON=/path/to/python3, or install uv, which brings its own." >&2
  fi
  return 1
}

install_requirements() {
  local stamp
  local files=("$REQUIREMENTS") arguments=() file
  [ ! -f requirements-dev.txt ] || files+=(requirements-dev.txt)
  for file in "${files[@]}"; do arguments+=(-r "$file"); done
  stamp=$(cat "${files[@]}" | cksum)
  if [ "$(cat .venv/.installed 2>/dev/null)" = "$stamp" ]; then
    [ -n "$made_with" ] || printf '%s\n' "$REQUIREMENTS" >.venv/.requirements
    return
  fi
  echo "Setting up .venv with $REQUIREMENTS (once; some minutes) ..." >&2
  if [ ! -x "$python" ] || { [ -n "$made_with" ] && [ "$made_with" != "$REQUIREMENTS" ]; }; then
    make_environment || return 1  # anew: files of xgboost-cpu and xgboost, say, would mix
  fi
  if ! "$python" -m pip install --disable-pip-version-check --quiet "${arguments[@]}"; then
    echo "Installing $REQUIREMENTS failed (see above); call the script again when mended." >&2
    return 1
  fi
  printf '%s\n' "$REQUIREMENTS" >.venv/.requirements
  printf '%s\n' "$stamp" >.venv/.installed
}

# plugin_environment cuda|tpu: makes .venv-cuda or .venv-tpu and sets $python to its interpreter.  It is thin: jax's plugin for
# that device, which compiles for it on any machine, over the packages of .venv, which stay as they are.
#   JAX_VERSION  over .venv-VERSION instead, made here with that jax and the rest of requirements.txt (jax 0.11 needs Python 3.12)
plugin_environment() {
  local base=.venv folder=.venv-$1 extra=$1 name packages stamp jax
  [ "$1" != cuda ] || extra=cuda13
  if [ -n "${JAX_VERSION:-}" ]; then
    base=.venv-$JAX_VERSION folder+=-$JAX_VERSION stamp=$(cat requirements.txt requirements-dev.txt | cksum)
    if [ "$(cat "$base/.installed" 2>/dev/null)" != "$stamp" ]; then
      echo "Setting up $base (once; some minutes) ..." >&2
      name=$(PYTHON=${PYTHON:-python3.12 python3.13 python3.11} find_python) || { echo "Python 3.11, 3.12 or 3.13 is needed (PYTHON)." >&2; return 1; }
      "$name" -m venv --clear "$base" || return 1
      "$base/bin/python" -m pip install --disable-pip-version-check --quiet -r <(grep -v '^jax[>=]' requirements.txt) -r requirements-dev.txt "jax==$JAX_VERSION" || return 1
      printf '%s\n' "$stamp" >"$base/.installed"
    fi
  fi
  python=$folder/bin/python
  packages=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || return 1
  jax=$("$base/bin/python" -c 'import importlib.metadata; print(importlib.metadata.version("jax"))') || return 1
  [ "$(cat "$folder/.installed" 2>/dev/null)" != "$jax $packages" ] || return 0
  echo "Setting up $folder with jax[$extra]==$jax (once; some minutes) ..." >&2
  "$base/bin/python" -m venv --clear "$folder" || return 1
  printf '%s\n' "$packages" >"$(echo "$folder"/lib/python*/site-packages)/base.pth"
  "$python" -m pip install --disable-pip-version-check --quiet "jax[$extra]==$jax" || return 1
  printf '%s\n' "$jax $packages" >"$folder/.installed"
}

# Runs a set-up, one at a time where flock exists, so that two scripts started together don't break each other's environment.
alone() {
  if command -v flock >/dev/null; then
    mkdir -p .venv.lock && exec 9>.venv.lock/lock
    flock -n 9 || { echo "Waiting for another script that sets up .venv (it holds .venv.lock/lock) ..." >&2; flock 9; }
    "$@" || return 1
    exec 9>&-
  else
    "$@"
  fi
}

alone install_requirements || exit 1
