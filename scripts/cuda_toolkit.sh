#!/usr/bin/env bash
# Makes a CUDA 13.0 toolkit from PyPI wheels, to build the cuda feature on a machine without a GPU.
#
#   scripts/cuda_toolkit.sh [DEST]       about 2 GB, a few minutes; ~/.cache/scrl-cuda by default
#   source DEST/env.sh                   then: cargo build --release --features cuda
#
# Inside: nvcc, cudart, cuBLAS, cuRAND, NVRTC, cuDNN 9.28 and NCCL 2.32. A finished DEST is left as it is;
# an unfinished one is made anew. Needs Python 3 with venv, gcc and g++.
#
# Linking needs no driver: DEST/root/lib64/stubs holds a libcuda whose functions all return
# CUDA_ERROR_NO_DEVICE. With that folder in LD_LIBRARY_PATH, programs start and find no device.
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'cuda_toolkit: %s\n' "$1" >&2; exit "${2:-1}"; }

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    -*) fail "unknown option $1; --help shows the usage" 2 ;;
esac
[ $# -le 1 ] || fail "expected one folder at most; --help shows the usage" 2
dest=${1:-$HOME/.cache/scrl-cuda}

ready() { [ -f "$dest/env.sh" ] && printf 'already there: source %s/env.sh\n' "$dest"; }
if ready; then exit 0; fi
for tool in python3 gcc g++ flock; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# The marker distinguishes an unfinished toolkit from another folder, which is never removed.
# It is also the lock that makes a second run wait for the first.
if [ -e "$dest" ] && [ ! -e "$dest/.unfinished" ] && [ -n "$(ls -A "$dest")" ]; then
    fail "$dest is not empty and not a toolkit; name another folder or remove it"
fi
mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
case $dest in
    *[[:space:]]*) fail "$dest has a space, which nvcc's files cannot have; name another folder" ;;
esac
exec 9>"$dest/.unfinished"
flock 9
if ready; then exit 0; fi

# A virtual environment holds absolute paths, so it is built where it stays. An interrupted
# installation can look complete to pip, so it starts from nothing; pip's cache keeps the wheels.
rm -rf "$dest/venv" "$dest/root"
python3 -m venv "$dest/venv"
pip=("$dest/venv/bin/python" -m pip --disable-pip-version-check --quiet install)
"${pip[@]}" --upgrade pip
"${pip[@]}" 'cuda-toolkit[nvcc,cudart,cccl,crt,nvvm,cublas,curand,nvrtc]==13.0.2'
# Without their dependencies, which would replace the pinned cuBLAS by a newer one. The minor versions
# are those that this project is built, linked and tested with: cuDNN 9.28.1 and NCCL 2.32.3. cudarc
# 0.19.10 declares the functions of cuDNN 9.21 and NCCL 2.30, which both still have. Of another cuDNN
# the heuristics may rank other engines first, and so choose other plans and bits.
"${pip[@]}" --no-deps 'nvidia-cudnn-cu13==9.28.*' 'nvidia-nccl-cu13==2.32.*'

# Builds expect one root as NVIDIA's installer lays it out; the wheels spread it over folders.
wheels=$(echo "$dest"/venv/lib/python3*/site-packages/nvidia)
root=$dest/root
mkdir -p "$root/bin" "$root/include" "$root/lib64/stubs"
ln -s "$wheels"/cu13/bin/* "$root/bin/"
ln -s "$wheels/cu13/nvvm" "$root/nvvm"
for package in cu13 cudnn nccl; do
    ln -sf "$wheels/$package"/include/* "$root/include/"
    for library in "$wheels/$package"/lib/*.a "$wheels/$package"/lib/*.so.*; do
        [ -e "$library" ] || continue
        name=${library##*/}
        ln -sf "$library" "$root/lib64/$name"
        # The linker looks for the name without a version, which the wheels leave out.
        case $name in *.so.*) ln -sf "$library" "$root/lib64/${name%%.so.*}.so" ;; esac
    done
done

# The headers rename functions to their newest version; with the internal definition they declare
# the older ones too. Programs may ask for either, so the stub has both.
declared() {
    local define
    for define in -D__CUDA_API_VERSION_INTERNAL -U__CUDA_API_VERSION_INTERNAL; do
        gcc -E -P -x c "$define" "$root/include/cuda.h"
    done | tr '\n' ' ' | grep -oE '\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\(' | tr -d ' (' | sort -u
}
{
    printf '/* Callers clean up the arguments, so their types do not matter here. */\n'
    printf 'enum { NO_DEVICE = 100 };\n'
    # The last two are declared by a header of their own, which is not in the wheels.
    { declared; printf 'cuProfilerStart\ncuProfilerStop\n'; } |
        sed 's/.*/int &(void) { return NO_DEVICE; }/'
} >"$dest/libcuda_stub.c"
grep -q '^int cuInit(' "$dest/libcuda_stub.c" ||
    fail "$root/include/cuda.h declares no cuInit; see $dest/libcuda_stub.c"
gcc -O1 -shared -fPIC -fno-builtin -Wl,-soname,libcuda.so.1 \
    -o "$root/lib64/stubs/libcuda.so.1" "$dest/libcuda_stub.c"
ln -s libcuda.so.1 "$root/lib64/stubs/libcuda.so"
# Under the name that only the linker asks for: lib64 itself must not hide a driver at run time.
ln -s stubs/libcuda.so.1 "$root/lib64/libcuda.so"

"$root/bin/nvcc" --version | tail -2

# Written last and at once, as its presence means that the rest is complete. The linker finds the
# libraries by LIBRARY_PATH; RUSTFLAGS would make cargo build everything anew.
cat >"$dest/env.sh.new" <<EOF
export CUDA_HOME=$root CUDA_PATH=$root CUDA_ROOT=$root CUDA_TOOLKIT_ROOT_DIR=$root
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90} NVCC_CCBIN=\${NVCC_CCBIN:-$(command -v g++)}
case ":\$PATH:" in
    *":$root/bin:"*) ;;
    *) export PATH=$root/bin:\$PATH ;;
esac
case ":\${LIBRARY_PATH:-}:" in
    *":$root/lib64:"*) ;;
    *) export LIBRARY_PATH=$root/lib64\${LIBRARY_PATH:+:\$LIBRARY_PATH} ;;
esac
EOF
mv "$dest/env.sh.new" "$dest/env.sh"
rm -f "$dest/.unfinished"
printf 'source %s/env.sh\n' "$dest"
