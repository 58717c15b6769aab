//! Compiles the kernels with nvcc, for the `cuda` feature.

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

/// Compiles the kernels as candle-kernels does: to PTX of the compute capability of the GPU at
/// hand, or of `CUDA_COMPUTE_CAP`.
#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    use std::path::PathBuf;

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/ops/kernels");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let sources = ["src/ops/kernels/f32.cu", "src/ops/kernels/bf16.cu"];
    let kernels = cudaforge::KernelBuilder::new()
        .source_files(sources)
        .watch(["src/ops/kernels"])
        .arg("-std=c++17")
        .arg("-O3")
        .build_ptx()?;
    kernels
        .write(PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.rs"))?;
    println!("cargo::rustc-env=SCRL_COMPUTE_CAP={}", cudaforge::detect_compute_cap()?.base());
    let header = cudaforge::CudaToolkit::detect()?.include_dir.join("cuda.h");
    let header = std::fs::read_to_string(header)?;
    let version = header.lines().find_map(|line| line.strip_prefix("#define CUDA_VERSION "));
    println!("cargo::rustc-env=SCRL_CUDA_VERSION={}", version.unwrap_or("0").trim());
    Ok(())
}
