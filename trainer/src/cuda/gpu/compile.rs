//! The kernels, compiled for the GPU at hand by NVRTC.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction};
use cudarc::nvrtc::{Ptx, result, sys};

use super::failed_with;
use crate::cuda::kernels::{SOURCES, source};
use crate::cuda::program::Numbers;
use crate::{Error, Result};

/// What names a kernel in the sources, before its name.
const MARKS: [&str; 3] = ["\nKERNEL(", "\nCOOPERATIVE(", "\nGATHERING("];

/// The names of all kernels.
fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    for (_, text) in SOURCES {
        for mark in MARKS {
            names.extend(text.split(mark).skip(1).filter_map(|rest| Some(rest.split_once(',')?.0)));
        }
    }
    names
}

/// Every kernel for maps of such numbers, ready to be started.
pub fn kernels(context: &Arc<CudaContext>, numbers: Numbers) -> Result<HashMap<&'static str, CudaFunction>> {
    let (major, minor) = context.compute_capability().map_err(failed_with("asking for its kind"))?;
    let image = compile(numbers, &format!("sm_{major}{minor}"))?;
    let module = context.load_module(Ptx::from_binary(image)).map_err(failed_with("loading the kernels"))?;
    names()
        .into_iter()
        .map(|name| Ok((name, module.load_function(name).map_err(failed_with(name))?)))
        .collect()
}

/// The kernels as machine code for an architecture such as `sm_90`.
///
/// # Errors
/// With the compiler's own words if it refuses the sources. NVRTC must be there.
pub fn compile(numbers: Numbers, architecture: &str) -> Result<Vec<u8>> {
    let text = CString::new(source(numbers)).map_err(failed_with("the kernels"))?;
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
    let program = result::create_program(&text, None).map_err(failed_with("compiling the kernels"))?;
    // SAFETY: the program was made above and is destroyed below.
    let compiled = unsafe { result::compile_program(program, &options) };
    let image = match compiled {
        Ok(()) => machine_code(program),
        Err(error) => Err(Error::Device(format!("compiling the kernels: {error:?}: {}", log(program)))),
    };
    // SAFETY: nobody uses it any more.
    unsafe { result::destroy_program(program) }.map_err(failed_with("compiling the kernels"))?;
    image
}

fn machine_code(program: sys::nvrtcProgram) -> Result<Vec<u8>> {
    let what = "taking the compiled kernels";
    let mut bytes = 0;
    // SAFETY: the program is compiled, and the place for the size is valid.
    unsafe { sys::nvrtcGetCUBINSize(program, &mut bytes) }.result().map_err(failed_with(what))?;
    let mut image = vec![0u8; bytes];
    // SAFETY: there is room for as many bytes as were announced.
    unsafe { sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast::<c_char>()) }
        .result()
        .map_err(failed_with(what))?;
    Ok(image)
}

fn log(program: sys::nvrtcProgram) -> String {
    // SAFETY: the program was compiled, with whatever success.
    let Ok(log) = (unsafe { result::get_program_log(program) }) else { return String::new() };
    // SAFETY: a log ends with a zero.
    let text = unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_that_is_launched_is_named() {
        let launched = include_str!("../kernels.rs");
        let names = names();
        assert!(names.len() > 20);
        for name in &names {
            assert!(launched.contains(&format!("\"{name}\"")), "{name} is never launched");
        }
    }

    #[test]
    fn the_kernels_compile_for_hopper() {
        // SAFETY: this loads a library and lets go of it.
        if !unsafe { sys::is_culib_present() } {
            eprintln!("skipped: NVRTC is not found");
            return;
        }
        for numbers in [Numbers::Bf16, Numbers::F32] {
            let image = compile(numbers, "sm_90").unwrap();
            for name in names() {
                let in_image = image.windows(name.len()).any(|bytes| bytes == name.as_bytes());
                assert!(in_image, "{name} in {numbers:?}");
            }
        }
    }
}
