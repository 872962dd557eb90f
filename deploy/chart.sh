#!/usr/bin/env bash
# Checks the chart: renders every file of ci/, validates what comes out, tests the rules. Brings its tools from PyPI, and promtool from Debian's package, into target/.
#   chart.sh            compares the renders with ci/golden
#   chart.sh --update   writes them anew
set -euo pipefail
cd "$(dirname "$0")/.."
tools="${CARGO_TARGET_DIR:-target}/chart"
if [ ! -x "$tools/bin/python" ]; then
  python3 -m venv "$tools" || { echo "chart: python3 -m venv does not work: install python3-venv" >&2; exit 1; }
  "$tools/bin/pip" install -q --disable-pip-version-check helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 PyYAML \
    cloudcoil-models-keda==2.16.1.0 cloudcoil-models-prometheus-operator==0.80.1.0
fi
if ! command -v promtool >/dev/null; then
  if [ ! -d "$tools/prometheus" ] && command -v apt-get >/dev/null; then
    # Unpacked and not installed: the package would start a server. Where this fails, the check says what it skips.
    (cd "$tools" && apt-get -qq download prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb) >/dev/null 2>&1 || true
  fi
  PATH="$PATH:$(cd "$tools" && pwd)/prometheus/usr/bin"
fi
exec "$tools/bin/python" deploy/chart/check.py "$@"
