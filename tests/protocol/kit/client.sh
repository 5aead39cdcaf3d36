#!/usr/bin/env bash
# A client without any library: reads lines { "op": …, "fields": … } and writes the answers, all in JSON, over /dev/tcp.
#   bash client.sh HOST PORT TENANT
set -euo pipefail
export LC_ALL=C  # lengths are in bytes
host=$1 port=$2 tenant=$3
inbox=_INBOX.bash.$$

exec 3<>"/dev/tcp/$host/$port"
IFS= read -r _ <&3  # INFO {…}
printf 'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB %s.* 1\r\n' "$inbox" >&3

request() { # request NUMBER SUBJECT BODY: print the body of the answer
  printf 'PUB %s %s.%s %s\r\n%s\r\n' "$2" "$inbox" "$1" "${#3}" "$3" >&3
  local line words body
  while IFS= read -r line <&3; do
    line=${line%$'\r'}
    read -ra words <<<"$line"
    case ${words[0]:-} in
      PING) printf 'PONG\r\n' >&3 ;;
      -ERR) printf '%s\n' "$line" >&2; return 1 ;;
      HMSG) echo '{"error":{"code":"no_responders"}}'; IFS= read -r -N "$((words[-1] + 2))" _ <&3; return ;;
      MSG) IFS= read -r -N "$((words[-1] + 2))" body <&3; printf '%s\n' "${body%$'\r\n'}"; return ;;
    esac
  done
  return 1
}

number=0
while IFS= read -r line; do
  op=${line#*\"op\": \"} op=${op%%\"*}
  fields=${line#*\"fields\": } fields=${fields%\}}
  request "$((number += 1))" "foliot.v1.$tenant.$op" "$fields"
done
