#!/bin/sh
# Measure pretraining, fine-tuning and embedding beside transformers, and write it into the folder named as argument; more than
# an hour on two quiet cores. On a GPU: DEVICE=cuda sh recipes/speed/all.sh results
set -e
out=${1:?usage: sh recipes/speed/all.sh FOLDER}
bench="${PYTHON:-python} $(dirname "$0")/bench.py"
device=${DEVICE:-auto}
mkdir -p "$out"
if [ "$device" = cuda ]; then
    for size in base large; do
        $bench pretrain --size $size --device cuda --total 87.5 --range 4 15.6 --rounds 50 \
            --against transformers --out "$out/pretrain_$size.json"
    done
    exit
fi
for dtype in bf16 float32; do
    $bench pretrain --dtype $dtype --total 40 --against transformers --out "$out/pretrain_$dtype.json"
    $bench finetune --dtype $dtype --total 40 --against transformers --out "$out/finetune_$dtype.json"
    $bench embed --dtype $dtype --total 200 --against transformers --out "$out/embed_$dtype.json"
done
