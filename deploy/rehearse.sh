#!/usr/bin/env bash
# The steps of the Dockerfile where no container engine runs: as root, in a clean Debian root.
#   apt-get install debootstrap
#   debootstrap --variant=minbase --include=python3-venv,ca-certificates bookworm /tmp/root
#   bash deploy/rehearse.sh /tmp/root
# Builds the environment, then serves from the root mounted read-only, as user 10001 without
# capabilities, asks what the health check and a client ask, and stops it with SIGTERM.
set -euo pipefail
root=${1:?a folder made by debootstrap}
port=${PORT:-8000}
url=http://127.0.0.1:$port
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -e "$root/opt/quala/bin/quala" ]; then
    mkdir -p "$root/src"
    cp -r pyproject.toml README.md LICENSE constraints.txt src conf workflows "$root/src"
    chroot "$root" python3 -m venv /opt/quala
    chroot "$root" /opt/quala/bin/pip install --no-cache-dir /src -c /src/constraints.txt
    chroot "$root" /opt/quala/bin/python -m compileall -q /opt/quala
    mkdir -p "$root/models"
fi
if chroot "$root" /opt/quala/bin/python -c 'import torch' 2>/dev/null; then
    echo "PyTorch is installed, which serving does not need" >&2
    exit 1
fi

# As `docker run --read-only --tmpfs /tmp --cap-drop ALL` does; the process keeps its id.
unshare --mount bash -c '
    mount --bind "$1" "$1"
    mount -t tmpfs tmpfs "$1/tmp"
    mount -t proc proc "$1/proc"
    mount -o remount,bind,ro "$1"
    cd "$1/models"
    exec env -i HOME=/tmp PATH=/opt/quala/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 \
        /usr/sbin/chroot --userspec=10001:10001 "$1" sh -c "
            cd /models
            touch /models/x 2>/dev/null && exit 99
            exec quala serve --host 127.0.0.1 --port $2 minilm-squad"
' bash "$root" "$port" &
service=$!
trap 'kill $service 2>/dev/null || true' EXIT

ask() { python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())' "$1"; }
post() {
    python3 - "$url/answer" "$1" <<'PY'
import sys, urllib.request
request = urllib.request.Request(
    sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"}
)
print(urllib.request.urlopen(request).read().decode()[:300])
PY
}
for _ in $(seq 300); do
    if ask "$url/readyz" 2>/dev/null; then break; fi
    kill -0 $service
    sleep 0.2
done
ask "$url/livez"
post '{"question": "Who designed the engine?", "context": "Charles Babbage designed it.", "keep": 0.7}'
grep -E '^(Uid|CapEff|VmHWM)' "/proc/$service/status"
kill -TERM $service
code=0
wait $service || code=$?
trap - EXIT
echo "ended with $code"
exit $code
