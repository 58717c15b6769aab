#!/usr/bin/env bash
# The CUDA libraries that scrl-train loads on a GPU: NVRTC, cuBLASLt and cuDNN 9. The driver is the machine's own.
#
#   scripts/cuda_libraries.sh FOLDER     install them from PyPI into FOLDER (about 2 GB), then say how to use them
#   scripts/cuda_libraries.sh            say where those of the Python at hand are, such as PyTorch's; $PYTHON or python3
#
# Either way the last line sets LD_LIBRARY_PATH:   eval "$(scripts/cuda_libraries.sh | tail -1)"
# Building needs none of this. Without a GPU, NVRTC lets the tests compile the kernels.
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'cuda_libraries: %s\n' "$1" >&2; exit "${2:-1}"; }

python=${PYTHON:-python3}
case ${1:-} in
    -h | --help) usage; exit 0 ;;
    -*) fail "unknown option $1; --help shows how to start it" 2 ;;
    '') ;;
    *)
        python=$1/bin/python3
        [ -x "$python" ] || python3 -m venv "$1"
        "$python" -m pip install --quiet 'cuda-toolkit[cublas,nvrtc]==13.0.*' nvidia-cudnn-cu13
        ;;
esac

# Wheels put their libraries below nvidia/, in a folder for each package or for each version of CUDA.
"$python" - <<'PYTHON'
import pathlib, shlex, sys

wanted = {"NVRTC": "libnvrtc.so.*", "cuBLASLt": "libcublasLt.so.*", "cuDNN": "libcudnn.so.*"}
folders = [path for entry in sys.path for path in pathlib.Path(entry or ".").glob("nvidia/*/lib") if path.is_dir()]
found = []
for name, pattern in wanted.items():
    homes = [str(folder.resolve()) for folder in folders if any(folder.glob(pattern))]
    if not homes:
        sys.exit(f"cuda_libraries: {sys.executable} has no {name}; name a folder to install it into")
    print(f"{name}: {homes[0]}")
    found += [homes[0]] if homes[0] not in found else []
print(f"export LD_LIBRARY_PATH={shlex.quote(':'.join(found))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}")
PYTHON
