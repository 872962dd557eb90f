//! One kind of product with its plan: how cuBLASLt computes it, chosen once.
//!
//! Invariant: a plan sums in one order (no split sums, no atomics), and a row's bits depend neither on the number of rows nor on the row's place among them;
//! candidates that break this on random data are not plans.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use crate::ops::Numbers;

/// Which side of a weight is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reads {
    /// W `[columns, inner]`, as in x · Wᵀ.
    Rows,
    /// W `[inner, columns]`, as in dy · W.
    Columns,
}

/// What a product is, except for its number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) reads: Reads,
    /// Columns of the result.
    pub(super) columns: usize,
    /// Length of the sums.
    pub(super) inner: usize,
    /// Numbers from a row of the weight in memory to the next one.
    pub(super) weight_pitch: usize,
    /// Numbers from a row of the input to the next one.
    pub(super) input_pitch: usize,
    /// Numbers from a row of the result, and of what it is added to, to the next one.
    pub(super) output_pitch: usize,
    /// Number format of weight and input.
    pub(super) input: Numbers,
    /// Number format of the result.
    pub(super) output: Numbers,
    pub(super) has_bias: bool,
    /// Whether the result is added to a residual.
    pub(super) adds: bool,
}

impl Kind {
    /// Returns the numbers from one column's weights to the next column's, and from one weight of a column to the next, in memory.
    pub(super) fn steps(&self) -> (usize, usize) {
        match self.reads {
            Reads::Rows => (self.weight_pitch, 1),
            Reads::Columns => (1, self.weight_pitch),
        }
    }

    /// Returns whether the library takes such sizes: rows of bfloat16 begin where its instructions read, at multiples of 16 bytes.
    pub(super) fn is_for_library(&self) -> bool {
        let sizes = [
            self.columns,
            self.inner,
            self.weight_pitch,
            self.input_pitch,
            self.output_pitch,
        ];
        self.input == Numbers::F32 || sizes.iter().all(|size| size.is_multiple_of(8))
    }
}

/// Addresses of a product's operands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub(super) weight: u64,
    pub(super) input: u64,
    /// Bias in the number format of the result; 0 without one.
    pub(super) bias: u64,
    /// Residual; the result's own address without one.
    pub(super) residual: u64,
    pub(super) output: u64,
}

/// Memory that a product's kernel may use, and the stream that it runs on.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) handle: sys::cublasLtHandle_t,
    pub(super) stream: sys::cudaStream_t,
    pub(super) workspace: u64,
    pub(super) bytes: usize,
}

/// `CUBLAS_OP_N` of the library: an operand as it is.
const AS_IT_IS: i32 = 0;
/// `CUBLAS_OP_T` of the library: an operand transposed.
const TRANSPOSED: i32 = 1;

/// How a kind is computed.
pub(super) type Plan = sys::cublasLtMatmulAlgo_t;

fn type_of(numbers: Numbers) -> sys::cudaDataType_t {
    match numbers {
        Numbers::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Numbers::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
    }
}

/// Layout of a matrix in memory, column by column.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(
        numbers: Numbers,
        rows: usize,
        columns: usize,
        pitch: usize,
    ) -> Result<Self, CublasError> {
        let layout = result::create_matrix_layout(
            type_of(numbers),
            rows as u64,
            columns as u64,
            pitch as i64,
        )?;
        Ok(Self(layout))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created in `new`, and destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// Description of a product.
struct Desc(sys::cublasLtMatmulDesc_t);

impl Desc {
    fn new(kind: &Kind, bias: u64) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as A;
        // Sums in f32; the tensor cores' shorter format for f32 inputs is not asked for.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let desc = Self(result::create_matmul_desc(
            compute,
            sys::cudaDataType_t::CUDA_R_32F,
        )?);
        let transposed = match kind.reads {
            Reads::Rows => TRANSPOSED,
            Reads::Columns => AS_IT_IS,
        };
        desc.set(A::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        desc.set(A::CUBLASLT_MATMUL_DESC_TRANSB, &AS_IT_IS)?;
        if kind.has_bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as i32;
            desc.set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            desc.set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
            let of = type_of(kind.output) as i32;
            desc.set(A::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &of)?;
        }
        Ok(desc)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        // SAFETY: the description is valid, and the value has the attribute's size: 32 bits, or 64 for an address.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                attribute,
                std::ptr::from_ref(value).cast::<c_void>(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Desc {
    fn drop(&mut self) {
        // SAFETY: created in `new`, and destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// Limits of the search for plans.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(kind: &Kind, workspace: usize) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as A;
        let own = Self(result::create_matmul_pref()?);
        own.set(
            A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &(workspace as u64),
        )?;
        // No split sums.
        own.set(A::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &0_u32)?;
        let alignment: u32 = match kind.input {
            // Rows of a multiple of eight numbers.
            Numbers::Bf16 => 16,
            Numbers::F32 => 4,
        };
        for attribute in [
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            own.set(attribute, &alignment)?;
        }
        Ok(own)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        // SAFETY: the preference is valid, and the value has the attribute's size.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                std::ptr::from_ref(value).cast::<c_void>(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created in `new`, and destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Layouts of a kind with so many rows.
struct Layouts {
    weight: Layout,
    input: Layout,
    output: Layout,
}

impl Layouts {
    fn new(kind: &Kind, rows: usize) -> Result<Self, CublasError> {
        let (columns, inner) = (kind.columns, kind.inner);
        // What is row by row here is column by column there: the library computes resultᵀ = weight · inputᵀ.
        let (high, wide) = match kind.reads {
            Reads::Rows => (inner, columns),
            Reads::Columns => (columns, inner),
        };
        Ok(Self {
            weight: Layout::new(kind.input, high, wide, kind.weight_pitch)?,
            input: Layout::new(kind.input, inner, rows, kind.input_pitch)?,
            output: Layout::new(kind.output, columns, rows, kind.output_pitch)?,
        })
    }
}

/// Returns the plans that the library proposes for so many rows, the one that it thinks fastest first; at most `most`.
pub(super) fn candidates(
    kind: &Kind,
    rows: usize,
    room: Room,
    most: usize,
) -> Result<Vec<Plan>, CublasError> {
    // The library may refuse a bias without an address; it reads nothing here.
    let (desc, layouts) = (Desc::new(kind, room.workspace)?, Layouts::new(kind, rows)?);
    let preference = Preference::new(kind, room.bytes)?;
    let mut found = vec![MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed(); most];
    let mut count = 0;
    // SAFETY: all descriptions live until the call returns, and the array has room for `most` results.
    unsafe {
        sys::cublasLtMatmulAlgoGetHeuristic(
            room.handle,
            desc.0,
            layouts.weight.0,
            layouts.input.0,
            layouts.output.0,
            layouts.output.0,
            preference.0,
            most as i32,
            found.as_mut_ptr().cast(),
            &mut count,
        )
        .result()?;
    }
    let count = usize::try_from(count).unwrap_or(0).min(most);
    // SAFETY: the library has written the first `count` results, and zeros are a valid result, too.
    let found = found
        .into_iter()
        .take(count)
        .map(|one| unsafe { one.assume_init() });
    let plans = found.filter(|one| one.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
    Ok(plans
        .map(|one| one.algo)
        .filter(sums_in_one_order)
        .collect())
}

/// Returns a number of a plan that has 32 bits; `None` when the library does not tell.
fn number(plan: &Plan, attribute: sys::cublasLtMatmulAlgoConfigAttributes_t) -> Option<u32> {
    let mut value = 0_u32;
    // SAFETY: the plan is one of the library's, and the attribute has 32 bits.
    let status = unsafe {
        sys::cublasLtMatmulAlgoConfigGetAttribute(
            plan,
            attribute,
            (&raw mut value).cast::<c_void>(),
            size_of::<u32>(),
            std::ptr::null_mut(),
        )
    };
    status.result().ok().map(|()| value)
}

/// Returns whether a plan computes each sum in one piece.
fn sums_in_one_order(plan: &Plan) -> bool {
    use sys::cublasLtMatmulAlgoConfigAttributes_t as A;
    matches!(
        number(plan, A::CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
        Some(0 | 1)
    ) && matches!(
        number(plan, A::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME),
        Some(0)
    )
}

/// Returns a plan's number, tile and stages, for people.
pub(super) fn describe(plan: &Plan) -> String {
    use sys::cublasLtMatmulAlgoConfigAttributes_t as A;
    let read = |attribute| number(plan, attribute).unwrap_or_default();
    format!(
        "algorithm {} tile {} stages {}",
        read(A::CUBLASLT_ALGO_CONFIG_ID),
        read(A::CUBLASLT_ALGO_CONFIG_TILE_ID),
        read(A::CUBLASLT_ALGO_CONFIG_STAGES_ID)
    )
}

/// Enqueues a product.
///
/// # Safety
/// The operands are matrices of this kind with so many rows on the device of `room`, and live until the launch is enqueued.
pub(super) unsafe fn run(
    kind: &Kind,
    plan: &Plan,
    rows: usize,
    operands: Operands,
    room: Room,
) -> Result<(), CublasError> {
    let (desc, layouts) = (Desc::new(kind, operands.bias)?, Layouts::new(kind, rows)?);
    let alpha = 1.0_f32;
    let beta = if kind.adds { 1.0_f32 } else { 0.0 };
    // SAFETY: promised by the caller; the factors are read before the call returns.
    unsafe {
        result::matmul(
            room.handle,
            desc.0,
            (&raw const alpha).cast(),
            (&raw const beta).cast(),
            operands.weight as *const c_void,
            layouts.weight.0,
            operands.input as *const c_void,
            layouts.input.0,
            operands.residual as *const c_void,
            layouts.output.0,
            operands.output as *mut c_void,
            layouts.output.0,
            plan,
            room.workspace as *mut c_void,
            room.bytes,
            room.stream,
        )
    }
}
