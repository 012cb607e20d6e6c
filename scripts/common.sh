# Sourced by the scripts of this folder: where the project is, colours on a terminal only, messages.
# shellcheck shell=bash disable=SC2034
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit 1
bold='' dim='' red='' green='' yellow='' off=''
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' off=$'\e[0m'
fi
# Elixir complains without a UTF-8 locale; every Debian has this one.
case ${LC_ALL:-${LC_CTYPE:-${LANG:-}}} in *[Uu][Tt][Ff]*) ;; *) export LC_ALL=C.UTF-8 ;; esac

say() { printf '%s\n' "$*"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$off"; }
warn() { printf '%s%s: %s%s\n' "$yellow" "${0##*/}" "$*" "$off" >&2; }
die() { printf '%s%s: %s%s\n' "$red" "${0##*/}" "$*" "$off" >&2; exit 1; }
usage_error() { printf '%s%s: %s%s (see --help)\n' "$red" "${0##*/}" "$*" "$off" >&2; exit 2; }
# The comment at the head of the script is its help.
print_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }
cores() { local n; n=$(nproc 2>/dev/null || echo 2); echo "$((n > 4 ? 4 : n < 2 ? 2 : n))"; }

# configure PRESET: the first time only; ninja itself configures again when a CMakeLists changes.
configure() {
  local preset=$1 log=build/$1.configure.log
  [[ -f build/$preset/build.ninja ]] && return
  mkdir -p build
  note "configuring build/$preset"
  cmake --preset "$preset" >"$log" 2>&1 || { tail -30 "$log" >&2; die "cmake failed; all of it is in $log"; }
}
# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  configure "$preset"
  ninja -C "build/$preset" "$@" || die "the build of build/$preset failed: the compiler's words are above"
}
