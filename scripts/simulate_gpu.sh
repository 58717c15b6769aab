#!/usr/bin/env bash
# Runs a program that was built with --features cuda on a simulated GPU, which computes on the CPU:
#
#   scripts/simulate_gpu.sh target/release/scrl-train --device cuda shards/
#
# It is for tests: slow, and strict. A broken rule of CUDA's, such as a use of freed memory, is
# reported and ends the program with exit code 86. Needs a C++ compiler and the headers of the CUDA
# toolkit; compiles the libraries of trainer/tests/simulated/ at the first run.
#
# SCRL_SIM_SEED=N              run the streams in a random order; else as late as possible
# SCRL_SIM_MEMORY=BYTES        memory of the GPU; 80 GiB otherwise
# SCRL_SIM_FAIL_ALLOCATION=N   the N-th allocation fails
# SCRL_SIM_FAIL_OPERATION=N    the N-th operation accesses illegal memory: all later calls fail
# SCRL_SIM_NO_POOLS=1          the device has no memory pools
# SCRL_SIM_LATE_COPIES=1       a copy to pageable memory returns before it is done
# SCRL_SIM_NO_ENGINES=1        cuDNN refuses every plan
# SCRL_SIM_ONLY_NCHW=1         cuDNN knows float32 with the channels outside only
# SCRL_SIM_DRY=1               compute nothing, but check and count: copies to the host give zeros
# SCRL_SIM_REPORT=FILE         write peak bytes, counts of calls and broken rules as JSON
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
root=$(dirname "$(dirname "$script")")
sources=$root/trainer/tests/simulated
kernels=$root/trainer/src/ops/kernels
emulator=$root/trainer/tests/emulated/emulator.h
folder=${CARGO_TARGET_DIR:-$root/target}/simulated-gpu
compiler=${CXX:-c++}

[ $# -gt 0 ] || { echo "usage: scripts/simulate_gpu.sh COMMAND…" >&2; exit 2; }

toolkit=${CUDA_HOME:-}
if [ -z "$toolkit" ]; then
    if ! nvcc=$(command -v nvcc); then
        echo "simulate_gpu.sh: no CUDA toolkit: set CUDA_HOME" >&2
        exit 2
    fi
    toolkit=$(dirname "$(dirname "$nvcc")")
fi

# compile LIBRARY OPTION… SOURCE…
compile() {
    local library=$1
    shift
    "$compiler" -std=c++17 -shared -fPIC -Wall -Wextra -Werror -I "$toolkit/include" \
        -o "$folder/$library.new" "$@"
    mv "$folder/$library.new" "$folder/$library"
}

# The libraries have the names, and most the symbol versions, of those that they stand for.
named() {
    local library=$1
    shift
    compile "$library" -O2 -Wl,-soname,"$library" -Wl,--default-symver "$@" -L "$folder" \
        -l:libcuda.so.1
}

build() {
    rm -f "$folder/built"
    cd "$sources"
    compile libcuda.so.1 -O3 -Wl,-soname,libcuda.so.1 driver.cpp memory.cpp streams.cpp \
        modules.cpp candle_kernels.cpp products.cpp rules.cpp -ldl
    named libcublas.so.13 cublas.cpp
    named libcurand.so.10 curand.cpp
    named libcudnn.so.9 cudnn.cpp convolution.cpp
    if [ -e "$toolkit/include/nccl.h" ]; then named libnccl.so.2 nccl.cpp; fi
    for type in f32 bf16; do
        compile libscrl_kernels_$type.so -O2 -Wno-unknown-pragmas -Wno-maybe-uninitialized \
            -DSCRL_EMULATED -I "$kernels" -include "$emulator" -x c++ "$kernels/$type.cu"
    done
    touch "$folder/built"
    cd - >/dev/null
}

mkdir -p "$folder"
exec {lock}>"$folder/lock"
flock "$lock"
if [ ! -e "$folder/built" ] ||
    [ -n "$(find "$sources" "$kernels" "$emulator" "$script" -newer "$folder/built")" ]; then
    build
fi
exec {lock}>&-

export LD_LIBRARY_PATH=$folder:$toolkit/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$@"
