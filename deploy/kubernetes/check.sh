#!/bin/bash
# Renders every overlay, validates it against the schemas of Kubernetes, KEDA and the Prometheus operator, and compares its numbers
# with each other (check.py). Tools are kept under target/: kustomize by kubectl or by Go, schemas by pip and the Go module proxy.
#   deploy/kubernetes/check.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}/tools")
readonly kubernetes=1.34 keda=v2.17.2 operator=v0.85.0 kustomize=v5.7.1
mkdir -p "$tools"

if ! [[ -x $tools/kubernetes/bin/python ]]; then
    python3 -m venv "$tools/kubernetes"
    "$tools/kubernetes/bin/pip" install --quiet kubernetes-validate==1.37.0
fi
render() {
    if command -v kubectl >/dev/null; then kubectl kustomize "$1"; return; fi
    [[ -x $tools/kustomize ]] || GOBIN=$tools go install "sigs.k8s.io/kustomize/kustomize/v5@$kustomize"
    "$tools/kustomize" build "$1"
}
# Downloads a Go module without building it, and prints its folder.
module() { (cd "$tools" && GOFLAGS=-mod=mod go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'); }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
deploy/kubernetes/generate.sh "$work/rule"
cmp "$work/rule" deploy/kubernetes/components/monitoring/prometheusrule.yaml \
    || { echo "deploy/prometheus/alerts.yml has changed: run deploy/kubernetes/generate.sh" >&2; exit 1; }
for overlay in deploy/kubernetes/overlays/*/; do render "$overlay" >"$work/$(basename "$overlay").yaml"; done
"$tools/kubernetes/bin/python" deploy/kubernetes/check.py "$kubernetes" \
    "$(module github.com/kedacore/keda/v2@$keda)/config/crd/bases" \
    "$(module github.com/prometheus-operator/prometheus-operator@$operator)/example/prometheus-operator-crd" \
    "$work"/*.yaml
