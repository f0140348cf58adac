#!/usr/bin/env bash
# On a machine with a GPU, in one call under 10 minutes and without network: time and memory of the losses, a distilled
# step beside its parts and a stored teacher beside one that runs, in float32 and bfloat16; compiled and plain training
# in bfloat16 on drawn scenes, with a stored teacher, and in two processes where there are two GPUs. Writes one report.
#
#     benchmarks/gpu.sh REPORT.md
#
# DEVICE=cpu tries it out without a GPU.
set -uo pipefail
cd "$(dirname "$0")"
report=$(realpath -m "${1:?usage: benchmarks/gpu.sh REPORT.md}")
device=${DEVICE:-cuda}
seconds=${SECONDS_EACH:-4}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
: > "$report"

section() { # TITLE COMMAND...: its output, or what it failed with, goes to the report
    local title=$1 begin=$SECONDS
    shift
    printf '\n## %s\n\n`%s`\n\n' "$title" "$*" >> "$report"
    if timeout 240 "$@" > "$folder/out" 2> "$folder/err"; then
        grep -v '^# \|^`python' "$folder/out" >> "$report"
    else
        printf 'failed: exit status %s\n\n```text\n' $? >> "$report"
        tail -n 20 "$folder/out" "$folder/err" >> "$report"
        printf '```\n' >> "$report"
    fi
    printf '\n%s s\n' $((SECONDS - begin)) >> "$report"
}

training() { # NAME CHANGES...: a short run on drawn scenes
    local name=$1
    shift
    section "Training: $name" segkd train quickstart "name=$name" "runs=$folder/runs" "data.root=$folder/streets" \
        teacher.overrides.trainer.max_steps=60 trainer.max_steps=120 validation.every=60 data.batch_size=8 \
        "trainer.accelerator=${device/cuda/gpu}" "$@"
}

export SEGKD_STORE=$folder/store
printf '# %s\n' "$(date -u +%F)" >> "$report"
section "Losses" python losses.py --device "$device" --seconds "$seconds"
for precision in fp32 bf16; do
    section "Step, $precision" python step.py --device "$device" --precision "$precision" --seconds "$seconds"
    section "Store, $precision" python store.py --device "$device" --precision "$precision" --seconds "$seconds"
done
training plain trainer.precision=32-true
training bf16 trainer.precision=bf16-mixed
training compiled trainer.precision=bf16-mixed trainer.compile=true
training stored trainer.precision=bf16-mixed teacher.store=true data.views=4
if [ "$(python -c 'import torch; print(torch.cuda.device_count())')" -ge 2 ]; then
    training two trainer.precision=bf16-mixed trainer.devices=2 trainer.strategy=ddp teacher.store=true data.views=4
fi
grep -c '^failed' "$report" && exit 1 || echo "$report: all ran"
