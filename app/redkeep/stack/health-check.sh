#!/bin/sh
# Managed by redkeep: do not edit. Runs inside the server's container: check [port]
# The user may PING and nothing else; its password is no argument of any process.
set -eu
folder=${0%/*}
cli=$(command -v redis-cli || command -v valkey-cli)
read -r REDISCLI_AUTH <"$folder/password"
export REDISCLI_AUTH
[ "$("$cli" --user health_check --no-auth-warning --tls --cacert "$folder/ca.crt" --cert "$folder/client.crt" \
    --key "$folder/client.key" -h 127.0.0.1 -p "${1:-6380}" PING)" = PONG ]
