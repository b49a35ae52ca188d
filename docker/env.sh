#!/bin/sh
# Makes .env out of .env.example, with a secret for each line that has none. Leaves a .env that is there alone.
set -eu
cd "$(dirname "$0")/.."
[ ! -e .env ] || exit 0
umask 077
while IFS= read -r line; do
  case "$line" in
    *_SECRET= | *_TOKEN= | *_SALT= | *_PASSWORD=) line="$line$(od -An -N 32 -tx1 /dev/urandom | tr -d ' \n')" ;;
  esac
  printf '%s\n' "$line"
done <.env.example >.env.partial
mv .env.partial .env
echo "made .env, with secrets of its own" >&2
