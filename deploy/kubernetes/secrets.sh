#!/bin/sh
# secrets.sh KEYS_FILE: the two Secrets that the overlays refer to, with fresh random values, as YAML on stdout.
#
#   tandem keys add --file keys.json --tenant shop
#   kubectl create namespace tandem; deploy/kubernetes/secrets.sh keys.json | kubectl create -n tandem -f -
#
# Once: `create` refuses to replace them. Keep erasure-secret for good; how the others rotate: docs/operations.md.
set -eu
keys=${1:?name the file that 'tandem keys add' made}
random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

kubectl create secret generic api-keys --dry-run=client -o yaml --from-file=keys.json="$keys"
echo ---
# By way of standard input: arguments are for everybody on this machine to see.
printf '%s=%s\n' internal-secret "$(random)" metrics-token "$(random)" log-salt "$(random)" \
  erasure-secret "$(random)" redis-password "$(random)" |
  kubectl create secret generic tandem --dry-run=client -o yaml --from-env-file=/dev/stdin
