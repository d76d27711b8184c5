#!/usr/bin/env bash
# Supernova or host galaxy? Pre-train without classes on some objects, then probe on others.
#   pip install 'lom-spectra[sndata]' 'lom-core[probe]'; examples/probe/run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
test -f logs/probe/checkpoints/best || lom train "$here/run.yaml" "$@"
lom embed logs/probe train --baselines --out logs/probe/train.npz
lom embed logs/probe "$here/test.yaml" --baselines --out logs/probe/test.npz
lom probe logs/probe/train.npz --test logs/probe/test.npz --label class --group object_id
