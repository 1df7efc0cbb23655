#!/bin/bash
# Writes components/monitoring/prometheusrule.yaml from deploy/prometheus/alerts.yml, which stays the only source of the alerts.
#   deploy/kubernetes/generate.sh [FILE]
set -euo pipefail
cd "$(dirname "$0")"
{
    cat <<'HEAD'
# Made by deploy/kubernetes/generate.sh from deploy/prometheus/alerts.yml: change that file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tidegate
spec:
HEAD
    sed 's/^\(.\)/  \1/' ../prometheus/alerts.yml
} >"${1:-components/monitoring/prometheusrule.yaml}"
