#!/usr/bin/env bash
# Galaxy, nebula or cluster? Pre-train on the pictures of four folds, probe on the fifth, five times.
#   apt-get download stellarium-data; dpkg -x stellarium-data_*.deb stellarium
#   examples/stellarium/run.sh stellarium/usr/share/stellarium/nebulae/default
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=data/stellarium logs=logs/stellarium
python "$here/prepare.py" "$1" $data
ls "$PWD"/$data/copies/*.png > $data/copies.txt
echo "{kind: galaxy_files, paths: $data/copies.txt}" > $data/copies.yaml
for k in 0 1 2 3 4; do
  lom train "$here/pretrain.yaml" data.dataset.paths=$data/train_$k.txt \
    data.eval.val.paths=$data/val_$k.txt out_dir=$logs/$k
  lom embed $logs/$k $data/copies.yaml --baselines --out $logs/$k.npz
done
python "$here/compare.py" $data $logs
