//! Matrix products by cuBLASLt, which takes matrices column by column: a row-major matrix is its transpose there, so
//! `result = left · right` is computed as `resultᵀ = rightᵀ · leftᵀ`.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{self, cublasComputeType_t, cudaDataType};
use cudarc::driver::CudaStream;

use super::failed_with;
use super::memory::Memory;
use crate::Result;
use crate::cuda::program::{Multiply, Numbers, ProductShape};

/// The most bytes that a product may use beside its matrices.
const MOST_WORKSPACE: usize = 64 << 20;

/// How a product of some shape is computed.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    right: sys::cublasLtMatrixLayout_t,
    left: sys::cublasLtMatrixLayout_t,
    result: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

/// The library and its plans.
pub struct Products {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<ProductShape, Plan>,
}

fn data_type(numbers: Numbers) -> cudaDataType {
    match numbers {
        Numbers::Bf16 => cudaDataType::CUDA_R_16BF,
        Numbers::F32 => cudaDataType::CUDA_R_32F,
    }
}

/// `CUBLAS_OP_T` or `CUBLAS_OP_N` of cuBLAS's own header.
fn operation(transposed: bool) -> i32 {
    i32::from(transposed)
}

/// A row-major matrix that lies in memory as `[rows, columns]`, or the other way round.
fn layout(
    numbers: Numbers,
    rows: usize,
    columns: usize,
    transposed: bool,
) -> Result<sys::cublasLtMatrixLayout_t> {
    let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
    result::create_matrix_layout(data_type(numbers), columns as u64, rows as u64, columns as i64)
        .map_err(failed_with("describing a matrix"))
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, shape: &ProductShape) -> Result<Self> {
        let what = "planning a matrix product";
        // Plain float32: TF32 would be another compute type.
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description =
            result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F).map_err(failed_with(what))?;
        let operations = [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, shape.right_transposed),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, shape.left_transposed),
        ];
        for (attribute, transposed) in operations {
            let operation = operation(transposed);
            let (value, size) = (&raw const operation, size_of_val(&operation));
            // SAFETY: the attribute is of this type.
            unsafe { result::set_matmul_desc_attribute(description, attribute, value.cast(), size) }
                .map_err(failed_with(what))?;
        }
        let right = layout(shape.factors, shape.inner, shape.columns, shape.right_transposed)?;
        let left = layout(shape.factors, shape.rows, shape.inner, shape.left_transposed)?;
        let result = layout(shape.result, shape.rows, shape.columns, false)?;
        let preference = result::create_matmul_pref().map_err(failed_with(what))?;
        let most = MOST_WORKSPACE;
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the attribute is of this type; everything below was made above.
        let found = unsafe {
            result::set_matmul_pref_attribute(
                preference,
                attribute,
                (&raw const most).cast(),
                size_of_val(&most),
            )
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    handle,
                    description,
                    right,
                    left,
                    result,
                    result,
                    preference,
                )
            })
        };
        // SAFETY: nobody uses it any more.
        unsafe { result::destroy_matmul_pref(preference) }.map_err(failed_with(what))?;
        let found = found.map_err(|error| failed_with(&format!("{what} {shape:?}"))(error))?;
        let workspace = found.workspaceSize;
        Ok(Self { description, right, left, result, algorithm: found.algo, workspace })
    }
}

impl Products {
    pub fn new() -> Result<Self> {
        let handle = result::create_handle().map_err(failed_with("starting cuBLASLt"))?;
        Ok(Self { handle, plans: HashMap::new() })
    }

    /// Chooses how a product is computed, and returns the bytes that it needs beside its matrices.
    pub fn prepare(&mut self, work: &Multiply) -> Result<usize> {
        if let Some(plan) = self.plans.get(&work.shape) {
            return Ok(plan.workspace);
        }
        let plan = Plan::new(self.handle, &work.shape)?;
        let workspace = plan.workspace;
        self.plans.insert(work.shape, plan);
        Ok(workspace)
    }

    /// Starts a product that was prepared.
    pub fn run(
        &self,
        work: &Multiply,
        [left, right, product]: [u64; 3],
        workspace: &Memory,
        stream: &CudaStream,
    ) -> Result<()> {
        let plan = &self.plans[&work.shape];
        let (one, kept) = (1.0f32, if work.shape.accumulate { 1.0f32 } else { 0.0 });
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the matrices have the sizes of the plan, as the program says, and the workspace those of all plans.
        unsafe {
            result::matmul(
                self.handle,
                plan.description,
                (&raw const one).cast(),
                (&raw const kept).cast(),
                pointer(right),
                plan.right,
                pointer(left),
                plan.left,
                pointer(product),
                plan.result,
                pointer(product),
                plan.result,
                &plan.algorithm,
                pointer(workspace.address()),
                plan.workspace,
                stream.cu_stream().cast(),
            )
        }
        .map_err(|error| failed_with(&format!("starting a matrix product {:?}", work.shape))(error))
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        for plan in self.plans.values() {
            for layout in [plan.right, plan.left, plan.result] {
                // SAFETY: it was made by `Plan::new`, and nobody else destroys it.
                let _ = unsafe { result::destroy_matrix_layout(layout) };
            }
            // SAFETY: as above.
            let _ = unsafe { result::destroy_matmul_desc(plan.description) };
        }
        // SAFETY: it was made by `new`, and nobody else destroys it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
