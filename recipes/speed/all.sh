#!/bin/sh
# Everything that README.md in this folder shows, into the folder named as argument; about an hour on two quiet cores.
# On a GPU: DEVICE=cuda sh recipes/bench/all.sh results
set -e
out=${1:?usage: sh recipes/bench/all.sh FOLDER}
device=${DEVICE:-auto}
mkdir -p "$out"
if [ "$device" = cuda ]; then
    for size in base large; do
        speechssl bench pretrain --size $size --device cuda --total 87.5 --range 4 15.6 --rounds 10 --steps 5 \
            --against transformers --out "$out/pretrain_$size.json"
    done
    exit
fi
for dtype in bf16 float32; do
    speechssl bench pretrain --dtype $dtype --total 40 --against transformers --out "$out/pretrain_$dtype.json"
    speechssl bench finetune --dtype $dtype --total 40 --against transformers torchaudio --out "$out/finetune_$dtype.json"
    speechssl bench embed --dtype $dtype --total 200 --against transformers torchaudio --out "$out/embed_$dtype.json"
done
speechssl bench transcribe --total 200 --against transformers torchaudio --out "$out/transcribe_bf16.json"
speechssl bench data --out "$out/data.json"
