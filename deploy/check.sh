#!/bin/bash
# Checks deploy/prometheus and the dashboard's expressions with promtool: `make deploy-check`.
#
# promtool is taken from the environment variable PROMTOOL, from PATH, or from target/tools. If it is missing, it is put into
# target/tools once: extracted from Debian's package `prometheus` if apt exists (seconds), or else built by Go (minutes).
#   PROMTOOL=/path/to/promtool deploy/check.sh
set -euo pipefail
cd "$(dirname "$0")/.."
readonly target=${CARGO_TARGET_DIR:-target}
readonly tools=$target/tools
# The version in docker-compose.yml: the module's version 0.305.0 is Prometheus 3.5.0.
readonly module=github.com/prometheus/prometheus version=v0.305.0

from_debian() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local work && work=$(mktemp -d)
    if (cd "$work" && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb out); then
        install -D "$work/out/usr/bin/promtool" "$tools/promtool"
    fi
    rm -rf "$work"
    [[ -x $tools/promtool ]]
}

from_go() {
    command -v go >/dev/null || return 1
    local work out && work=$(mktemp -d)
    mkdir -p "$tools" && out=$(realpath "$tools")
    # `go install` refuses a module whose go.mod replaces other modules. So build promtool in a module of our own.
    (cd "$work" && go mod init promtool && go get "$module/cmd/promtool@$version" \
        && go build -o "$out/promtool" "$module/cmd/promtool") || { rm -rf "$work"; return 1; }
    rm -rf "$work"
}

find_promtool() {
    if [[ -n ${PROMTOOL:-} ]]; then echo "$PROMTOOL"; return; fi
    if command -v promtool; then return; fi
    if [[ ! -x $tools/promtool ]]; then
        echo "fetching promtool, once" >&2
        from_debian >&2 || from_go >&2 || { echo "no promtool: install it, apt-get or Go" >&2; return 1; }
    fi
    echo "$tools/promtool"
}

promtool=$(find_promtool)
"$promtool" --version 2>&1 | head -n 1

"$promtool" check config deploy/prometheus/prometheus.yml
(cd deploy/prometheus && tool=$(cd - >/dev/null && realpath "$(command -v "$promtool")") && "$tool" test rules alerts_test.yml)

# Each expression of the dashboard becomes a rule, so that promtool parses it. Values replace Grafana's variables.
rules=$(mktemp --suffix=.yml)
trap 'rm -f "$rules"' EXIT
python3 - deploy/grafana/dashboards/tidegate.json >"$rules" <<'PYTHON'
import json, sys

dashboard = json.load(open(sys.argv[1]))
ids = [panel["id"] for panel in dashboard["panels"]]
assert len(ids) == len(set(ids)), "two panels have the same id"
expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
assert expressions, "no expressions"
rules = []
for number, text in enumerate(expressions):
    for variable, value in {"$__rate_interval": "1m", "$__range": "1h", "$pipeline": ".*", "$instance": ".*"}.items():
        text = text.replace(variable, value)
    assert "$" not in text, f"an unknown variable in {text}"
    rules.append({"record": f"dashboard:expression:{number}", "expr": text})
json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, sys.stdout)
PYTHON
echo "The dashboard's expressions"
"$promtool" check rules --lint=none "$rules" | sed "s|$rules|tidegate.json|"

# This metrics page was saved by the test `every_metric_of_the_dashboard_and_the_alerts_is_on_a_real_metrics_page`.
metrics=$target/tmp/metrics.txt
if [[ -f $metrics ]]; then
    echo "Checking $metrics"
    "$promtool" check metrics <"$metrics"
else
    echo "$metrics isn't there: run \`cargo test --test it deploy\` for the check of names, types and help"
fi
