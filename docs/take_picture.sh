#!/usr/bin/env bash
# Take the README's picture of a report: docs/take_picture.sh RUN/report.html
# Needs Chromium (apt-get install chromium).
set -euo pipefail
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$profile" \
  --window-size=1200,1180 --screenshot="$(dirname "$0")/_static/report.png" "file://$(realpath "$1")"
