# Sourced by the scripts: makes .venv and installs a requirements file, once.
#   REQUIREMENTS  which file (default requirements.txt; on GPU hosts requirements-gpu.txt, on TPU hosts requirements-tpu.txt)
#   PYTHON        which interpreter (default: the first of python3.11, python3.12, python3.13, python3 that is new enough)
# Afterwards $python is the environment's interpreter and the working directory is the project's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
REQUIREMENTS=${REQUIREMENTS:-requirements.txt}
[ -f "$REQUIREMENTS" ] || { echo "no file $REQUIREMENTS (REQUIREMENTS)" >&2; exit 1; }
python=.venv/bin/python

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  return 1
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
    echo "Python 3.11 or newer is needed: install it, or name one with PYTHON=/path/to/python3, or install uv." >&2
  fi
  return 1
}

install_requirements() {
  local stamp
  stamp=$(cat "$REQUIREMENTS" | cksum)
  [ "$(cat .venv/.installed 2>/dev/null)" = "$stamp" ] && return
  echo "Setting up .venv with $REQUIREMENTS (once; some minutes) ..." >&2
  [ -x "$python" ] || make_environment || return 1
  if ! "$python" -m pip install --disable-pip-version-check --quiet -r "$REQUIREMENTS"; then
    echo "Installing $REQUIREMENTS failed (see above); call the script again when mended." >&2
    return 1
  fi
  printf '%s\n' "$stamp" >.venv/.installed
}

# One set-up at a time where flock exists, so that two scripts started together don't break each other's environment.
if command -v flock >/dev/null; then
  mkdir -p .venv.lock && exec 9>.venv.lock/lock && flock 9
  install_requirements || exit 1
  exec 9>&-
else
  install_requirements || exit 1
fi
