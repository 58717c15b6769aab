//! Every kernel, assembled for every GPU that the project runs on: registers, shared memory and
//! spills. Needs nvcc, but no GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A100; A10 and RTX 30; L4, L40S and RTX 40; H100 and H200; B200; RTX 50.
const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"];

/// Registers of a multiprocessor, and of which number a warp's are a multiple: the same on all of
/// them.
const REGISTERS: u32 = 65_536;
const REGISTER_UNIT: u32 = 8;

/// Threads of a block (`THREADS`), and blocks that must fit a multiprocessor at once: with four reads
/// of 16 bytes on their way in each thread, its memory is busy (`AHEAD`).
const THREADS: u32 = 256;
const BLOCKS: u32 = 2;

/// What the assembler says of a kernel.
#[derive(Debug, PartialEq)]
struct Kernel {
    name: String,
    registers: u32,
    shared_bytes: u32,
    /// Bytes that a thread keeps in memory for want of registers.
    stack_bytes: u32,
    spilled_bytes: u32,
}

/// The number in front of `unit` in the assembler's line; 0 if it is not named.
fn number(line: &str, unit: &str) -> u32 {
    let before = line.split(unit).next().filter(|before| before.len() < line.len());
    before.and_then(|before| before.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

/// The kernels in what `nvcc -Xptxas -v` writes.
fn kernels(report: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in report.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1) {
            let name = name.split('\'').next().unwrap_or(name).to_owned();
            let none =
                Kernel { name, registers: 0, shared_bytes: 0, stack_bytes: 0, spilled_bytes: 0 };
            kernels.push(none);
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            kernel.stack_bytes = number(line, " bytes stack frame");
            kernel.spilled_bytes =
                number(line, " bytes spill stores").max(number(line, " bytes spill loads"));
        } else if line.contains(": Used ") {
            kernel.registers = number(line, " registers");
            kernel.shared_bytes = number(line, " bytes smem");
        }
    }
    kernels
}

/// nvcc of `CUDA_HOME`, or of the path.
fn nvcc() -> Option<PathBuf> {
    let named = std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let candidates = named.into_iter().chain([PathBuf::from("nvcc")]);
    candidates.into_iter().find(|nvcc| {
        Command::new(nvcc).arg("--version").output().is_ok_and(|output| output.status.success())
    })
}

fn assemble(nvcc: &Path, source: &str, architecture: &str) -> Vec<Kernel> {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(nvcc)
        .args(["-cubin", "-std=c++17", "-O3", "-Xptxas", "-v"])
        .arg(format!("-arch={architecture}"))
        .arg("-o")
        .arg(folder.path().join("kernels.cubin"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/kernels").join(source))
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{source} for {architecture}: {report}");
    kernels(&report)
}

/// Blocks of [`THREADS`] threads that fit a multiprocessor's registers.
fn blocks(registers: u32) -> u32 {
    REGISTERS / (THREADS * registers.next_multiple_of(REGISTER_UNIT))
}

#[test]
fn every_kernel_is_assembled_for_every_gpu_without_spills() {
    let Some(nvcc) = nvcc() else {
        eprintln!("skipped: no nvcc");
        return;
    };
    for source in ["f32.cu", "bf16.cu"] {
        println!("{source}: registers and bytes of shared memory");
        println!("{:24}{}", "", ARCHITECTURES.map(|name| format!("{name:>12}")).concat());
        let of_all = ARCHITECTURES.map(|architecture| assemble(&nvcc, source, architecture));
        assert!(of_all[0].len() > 20, "{} kernels in {source}", of_all[0].len());
        for index in (0..of_all[0].len()).rev() {
            let name = &of_all[0][index].name;
            let cell = |kernels: &Vec<Kernel>| {
                let Kernel { registers, shared_bytes, .. } = kernels[index];
                format!("{:>12}", format!("{registers} {shared_bytes}"))
            };
            println!("{name:24}{}", of_all.each_ref().map(cell).concat());
            for (kernel, architecture) in of_all.iter().map(|all| &all[index]).zip(ARCHITECTURES) {
                let what = format!("{architecture} {source}: {kernel:?}");
                assert_eq!(&kernel.name, name, "{what}");
                assert_eq!((kernel.stack_bytes, kernel.spilled_bytes), (0, 0), "{what}");
                assert!(kernel.registers > 0, "{what}");
                if name.starts_with("batch_norm") || name == "batch_moments" {
                    assert!(blocks(kernel.registers) >= BLOCKS, "{what}");
                }
            }
        }
    }
}

#[test]
fn the_assemblers_report_is_understood() {
    let report = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'add_bias' for 'sm_90a'
ptxas info    : Function properties for add_bias
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 4096 bytes smem
ptxas info    : Compile time = 10.0 ms";
    let expected = Kernel {
        name: "add_bias".to_owned(),
        registers: 40,
        shared_bytes: 4096,
        stack_bytes: 8,
        spilled_bytes: 12,
    };
    assert_eq!(kernels(report), [expected]);
}
