#!/usr/bin/env bash
# Programs that some tests judge with. Installed where this may be done; named where it may not.
set -u
wanted=()
command -v chromium >/dev/null 2>&1 || wanted+=(chromium)
command -v dciodvfy >/dev/null 2>&1 || wanted+=(dicom3tools)
[ ${#wanted[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ]; then as_root=""
elif sudo -n true 2>/dev/null; then as_root="sudo"
else
  echo "not installed (needs root): ${wanted[*]}; the tests that use them are skipped"
  exit 0
fi
if $as_root apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null; then
  echo "installed: ${wanted[*]}"
else
  echo "could not install: ${wanted[*]}; the tests that use them are skipped"
fi
exit 0
