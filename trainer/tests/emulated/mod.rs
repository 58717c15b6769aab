//! Runs programs on the CPU: the kernels' own sources, compiled as C++ (see `emulator.h`), convolutions by the CPU path's
//! ops, matrix products by candle.

// Each test program includes this file and uses a part of it.
#![allow(dead_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::collections::VecDeque;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;

use candle_core::{Device, Tensor};
use libloading::{Library, Symbol};
use scrl_trainer::Result;
use scrl_trainer::cuda::{
    Argument, Backend, ConvolutionShape, Convolve, Launch, Multiply, Numbers, Outcome, Pass, Places, Program,
    Work, source,
};
use scrl_trainer::ops::{Conv2d, Tape};

/// The boundary of allocations, a GPU's.
const ALIGNMENT: usize = 256;

/// Written over buffers before each program: a NaN in both kinds of numbers, so that nothing unwritten is read unnoticed.
const POISON: u8 = 0xff;

type Kernel = unsafe extern "C" fn(*const c_char, *const u32, *const u32, *mut *mut c_void) -> c_int;

/// A device that is the CPU.
pub struct Emulator {
    kernels: Library,
    staged: [[Vec<u64>; 2]; 2],
    turn: usize,
    fetched: VecDeque<Outcome>,
}

impl Emulator {
    /// Compiles the kernels for maps of such numbers; `None` without a C++ compiler.
    pub fn new(numbers: Numbers) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (text, library) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
        std::fs::write(&text, format!("#include \"emulator.h\"\n{}", source(numbers))).unwrap();
        let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let compiled = Command::new(compiler)
            .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
            .args(["-Wno-maybe-uninitialized", "-DSCRL_EMULATED", "-I"])
            .args([&header, Path::new("-o"), &library, &text])
            .status()
            .ok()?;
        assert!(compiled.success(), "the kernels do not compile as C++");
        // SAFETY: the library was made above; loading it registers its kernels and does nothing else.
        let kernels = unsafe { Library::new(&library) }.unwrap();
        Some(Self { kernels, staged: Default::default(), turn: 0, fetched: VecDeque::new() })
    }

    fn launch(&self, launch: &Launch, address: impl Fn(scrl_trainer::cuda::Operand) -> u64) {
        let mut words: Vec<[u8; 8]> = launch
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Place(place) => address(*place).to_ne_bytes(),
                Argument::Int(number) => i64::from(*number).to_ne_bytes(),
                Argument::Long(number) => number.to_ne_bytes(),
                Argument::Float(number) => u64::from(number.to_bits()).to_ne_bytes(),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| word.as_mut_ptr().cast()).collect();
        let name = CString::new(launch.kernel).unwrap();
        // SAFETY: `launch` of emulator.h has this type. The arguments are those of the kernel, as the programs under test
        // claim; on a little-endian machine a number's first bytes are the number as a shorter type.
        let known = unsafe {
            let kernel: Symbol<Kernel> = self.kernels.get(b"launch").unwrap();
            kernel(name.as_ptr(), launch.grid.as_ptr(), launch.block.as_ptr(), pointers.as_mut_ptr())
        };
        assert!(known == 1, "no kernel {}", launch.kernel);
    }
}

/// The numbers at an address.
pub fn read(address: u64, count: usize, numbers: Numbers) -> Vec<f32> {
    let address = address as usize;
    match numbers {
        // SAFETY: addresses come from `allocate` and lie within it, as the programs under test claim.
        Numbers::F32 => unsafe { std::slice::from_raw_parts(address as *const f32, count) }.to_vec(),
        // SAFETY: as above.
        Numbers::Bf16 => unsafe { std::slice::from_raw_parts(address as *const u16, count) }
            .iter()
            .map(|bits| f32::from_bits(u32::from(*bits) << 16))
            .collect(),
    }
}

/// A number rounded to bfloat16, as its bits.
pub fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() { 0x7fff } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}

fn write(address: u64, values: &[f32], numbers: Numbers) {
    let address = address as usize;
    match numbers {
        // SAFETY: addresses come from `allocate` and lie within it, as the programs under test claim.
        Numbers::F32 => unsafe { std::slice::from_raw_parts_mut(address as *mut f32, values.len()) }
            .copy_from_slice(values),
        // SAFETY: as above.
        Numbers::Bf16 => unsafe { std::slice::from_raw_parts_mut(address as *mut u16, values.len()) }
            .iter_mut()
            .zip(values)
            .for_each(|(place, value)| *place = bf16(*value)),
    }
}

/// Writes a result, or adds it to what is there.
fn store(address: u64, result: &Tensor, numbers: Numbers, accumulate: bool) -> Result<()> {
    let mut values: Vec<f32> = result.flatten_all()?.to_vec1()?;
    if accumulate {
        let before = read(address, values.len(), numbers);
        values.iter_mut().zip(before).for_each(|(value, before)| *value += before);
    }
    write(address, &values, numbers);
    Ok(())
}

fn tensor(address: u64, shape: &[usize], numbers: Numbers) -> Result<Tensor> {
    Ok(Tensor::from_vec(read(address, shape.iter().product(), numbers), shape, &Device::Cpu)?)
}

fn convolve(work: &Convolve, [input, filter, output]: [u64; 3]) -> Result<()> {
    let Convolve { pass, shape, accumulate, .. } = *work;
    let ConvolutionShape { n, side, inputs, outputs, kernel, stride, numbers } = shape;
    let conv = Conv2d { stride, padding: shape.padding(), input_gradient: pass == Pass::Data };
    let dims = [
        vec![n, side, side, inputs],
        vec![outputs, kernel, kernel, inputs],
        vec![n, shape.out_side(), shape.out_side(), outputs],
    ];
    // What a pass computes is not read.
    let given = |address, dims: &Vec<usize>, result: bool| match result {
        true => Ok(Tensor::zeros(dims.as_slice(), candle_core::DType::F32, &Device::Cpu)?),
        false => tensor(address, dims, numbers),
    };
    let x = given(input, &dims[0], pass == Pass::Data)?;
    let w = given(filter, &dims[1], pass == Pass::Filter)?;
    let mut tape = Tape::recording();
    let y = tape.two(conv, &x, &w)?;
    if pass == Pass::Forward {
        return store(output, &y, numbers, accumulate);
    }
    let gradients = tape.backward(&y, tensor(output, &dims[2], numbers)?)?;
    match pass {
        Pass::Data => store(input, gradients.get(&x).unwrap(), numbers, accumulate),
        _ => store(filter, gradients.get(&w).unwrap(), numbers, accumulate),
    }
}

fn multiply(work: &Multiply, [left, right, result]: [u64; 3]) -> Result<()> {
    let shape = work.shape;
    let factor = |address, rows, columns, transposed: bool| -> Result<Tensor> {
        if transposed {
            Ok(tensor(address, &[columns, rows], shape.factors)?.t()?.contiguous()?)
        } else {
            tensor(address, &[rows, columns], shape.factors)
        }
    };
    let left = factor(left, shape.rows, shape.inner, shape.left_transposed)?;
    let right = factor(right, shape.inner, shape.columns, shape.right_transposed)?;
    store(result, &left.matmul(&right)?, shape.result, shape.accumulate)
}

impl Backend for Emulator {
    fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).unwrap();
        // SAFETY: the size is not zero. A test's memory is not freed.
        Ok(unsafe { alloc_zeroed(layout) } as u64)
    }

    fn prepare(&mut self, _program: &Program) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8], to: u64) -> Result<()> {
        // SAFETY: `to` lies in memory from `allocate` that holds so many bytes, as the learner under test claims.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn stage(&mut self, description: &[u8], pixels: &[u8]) -> Result<[u64; 2]> {
        self.turn = 1 - self.turn;
        let places = self.staged[self.turn].each_mut();
        for (place, bytes) in places.into_iter().zip([description, pixels]) {
            place.resize(bytes.len() / 8 + 2, 0);
            // SAFETY: there is room for so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_mut_ptr().cast(), bytes.len()) };
        }
        Ok(self.staged[self.turn].each_ref().map(|place| place.as_ptr() as u64))
    }

    fn run(&mut self, program: &Program, places: &Places) -> Result<()> {
        // SAFETY: the memory of the buffers holds those of every program.
        unsafe { std::ptr::write_bytes(places.buffers as *mut u8, POISON, program.bytes) };
        let address = |operand| places.address(program, operand);
        for op in &program.ops {
            match &op.work {
                Work::Launch(launch) => self.launch(launch, address),
                Work::Convolve(work) => convolve(work, [work.input, work.filter, work.output].map(address))?,
                Work::Multiply(work) => multiply(work, [work.left, work.right, work.result].map(address))?,
                Work::Copy { from, to, bytes } => {
                    let (from, to) = (address(*from) as *const u8, address(*to) as *mut u8);
                    // SAFETY: both places hold so many bytes, as the program under test claims.
                    unsafe { std::ptr::copy(from, to, *bytes) };
                }
            }
        }
        Ok(())
    }

    fn fetch(&mut self, from: u64) -> Result<()> {
        let numbers: [f32; 5] = read(from, 5, Numbers::F32).try_into().unwrap();
        self.fetched.push_back(Outcome::from_numbers(numbers));
        Ok(())
    }

    fn fetched(&mut self) -> Result<Outcome> {
        Ok(self.fetched.pop_front().expect("an outcome under way"))
    }
}
