//! Runs the kernels on the CPU: their own sources, compiled as C++ (see `emulator.h`).

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;

use libloading::{Library, Symbol};
use scrl_trainer::ops::gpu::Emulator;

type Kernel =
    unsafe extern "C" fn(*const c_char, *const u32, *const u32, *mut *mut c_void) -> c_int;

/// The kernels for maps of float32 and of bfloat16.
pub struct CompiledKernels([Library; 2]);

impl CompiledKernels {
    /// A copy of them for one thread; `None` without a C++ compiler.
    pub fn new() -> Option<Rc<Self>> {
        static COMPILED: OnceLock<Option<[Vec<u8>; 2]>> = OnceLock::new();
        let compiled = || Some([compile("f32.cu")?, compile("bf16.cu")?]);
        let compiled = COMPILED.get_or_init(compiled).as_ref()?;
        Some(Rc::new(Self(compiled.each_ref().map(|library| load(library)))))
    }

    /// Perturbs what the kernels round to bfloat16 from now on: see `emulator.h`.
    #[allow(dead_code)]
    pub fn set_noise(&self, seed: u32) {
        // SAFETY: `set_noise` of emulator.h has this type.
        unsafe {
            let set: Symbol<unsafe extern "C" fn(u32)> = self.0[1].get(b"set_noise").unwrap();
            set(seed);
        }
    }
}

fn load(library: &[u8]) -> Library {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernels.so");
    std::fs::write(&path, library).unwrap();
    // SAFETY: the library was made by `compile`; loading it registers its kernels and does nothing
    // else.
    unsafe { Library::new(&path) }.unwrap()
}

fn compile(source: &str) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let (text, library) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
    std::fs::write(&text, format!("#include \"emulator.h\"\n#include \"{source}\"\n")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let compiled = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
        .args(["-Wno-maybe-uninitialized", "-DSCRL_EMULATED"])
        .arg("-I")
        .arg(root.join("tests/emulated"))
        .arg("-I")
        .arg(root.join("src/ops/kernels"))
        .args([Path::new("-o"), &library, &text])
        .status()
        .ok()?;
    assert!(compiled.success(), "{source} does not compile as C++");
    Some(std::fs::read(library).unwrap())
}

impl Emulator for CompiledKernels {
    fn launch(
        &self,
        bf16: bool,
        kernel: &str,
        blocks: [u32; 2],
        threads: [u32; 2],
        arguments: &mut [*mut c_void],
    ) {
        let name = CString::new(kernel).unwrap();
        // SAFETY: `launch` of emulator.h has this type, and the arguments are those of the kernel,
        // as the ops under test claim.
        let known = unsafe {
            let launch: Symbol<Kernel> = self.0[usize::from(bf16)].get(b"launch").unwrap();
            launch(name.as_ptr(), blocks.as_ptr(), threads.as_ptr(), arguments.as_mut_ptr())
        };
        assert!(known == 1, "no kernel {kernel}");
    }
}
