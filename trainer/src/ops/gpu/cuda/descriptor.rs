//! cuDNN's backend descriptors, which describe tensors, operations and plans.

use std::ffi::{CStr, c_void};
use std::ptr;

use candle_core::{Result, bail};
use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t::{self as Attribute, *};
use sys::cudnnBackendAttributeType_t::{self as AttributeType, *};
use sys::cudnnBackendDescriptorType_t as DescriptorType;
use sys::cudnnBackendHeurMode_t as HeuristicMode;
use sys::cudnnStatus_t::{self as Status, *};
use sys::{cudnnBackendDescriptor_t, cudnnConvolutionMode_t, cudnnDataType_t, cudnnHandle_t};

/// Fails unless the status is success. The error says what was being done.
pub(super) fn check(status: Status, doing: impl FnOnce() -> String) -> Result<()> {
    if status == CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut message = [0u8; 1024];
    // SAFETY: cuDNN writes no more bytes than the buffer has.
    unsafe { sys::cudnnGetLastErrorString(message.as_mut_ptr().cast(), message.len()) };
    let message =
        CStr::from_bytes_until_nul(&message).map(CStr::to_string_lossy).unwrap_or_default();
    bail!("cuDNN failed at {}: {status:?} {}", doing(), message.trim())
}

/// Whether a status rejects what was described: as a bad parameter, as not supported, or by an
/// internal error such as a kernel that does not compile. The answer is then the same in every run,
/// so the next configuration may be tried. A failed allocation or a GPU that no longer works is no
/// such answer, and must not lead to another choice.
fn rejects(status: Status) -> bool {
    let allocation = [
        CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED,
        CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED,
    ];
    (2000..5000).contains(&(status as u32)) && !allocation.contains(&status)
}

/// The value of an attribute of a descriptor.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Integers(&'a [i64]),
    Text(&'a str),
    Float(f32),
    DataType(cudnnDataType_t),
    ConvolutionMode(cudnnConvolutionMode_t),
    HeuristicMode(HeuristicMode),
    Handle(cudnnHandle_t),
    Descriptor(&'a Descriptor),
    Addresses(&'a [u64]),
}

/// One of cuDNN's backend descriptors. Once its attributes are set, it is finalized and can be
/// used.
pub(super) struct Descriptor {
    pub raw: cudnnBackendDescriptor_t,
    kind: DescriptorType,
}

impl Descriptor {
    fn new(kind: DescriptorType) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is a place for the new descriptor.
        let status = unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut raw) };
        check(status, || format!("creating {kind:?}"))?;
        Ok(Self { raw, kind })
    }

    /// Sets the attributes, finalizes, and gives the status of that.
    fn build(kind: DescriptorType, attributes: &[(Attribute, Value)]) -> Result<(Self, Status)> {
        let descriptor = Self::new(kind)?;
        attributes.iter().try_for_each(|&(name, value)| descriptor.set(name, value))?;
        // SAFETY: the descriptor lives, and so do those that its attributes name.
        let status = unsafe { sys::cudnnBackendFinalize(descriptor.raw) };
        Ok((descriptor, status))
    }

    /// A finalized descriptor, or an error if cuDNN rejects it.
    pub fn finalized(kind: DescriptorType, attributes: &[(Attribute, Value)]) -> Result<Self> {
        let (descriptor, status) = Self::build(kind, attributes)?;
        check(status, || format!("finalizing {kind:?}"))?;
        Ok(descriptor)
    }

    /// A finalized descriptor, or `None` if cuDNN rejects it.
    pub fn if_supported(
        kind: DescriptorType,
        attributes: &[(Attribute, Value)],
    ) -> Result<Option<Self>> {
        let (descriptor, status) = Self::build(kind, attributes)?;
        if rejects(status) {
            return Ok(None);
        }
        check(status, || format!("finalizing {kind:?}"))?;
        Ok(Some(descriptor))
    }

    fn set(&self, name: Attribute, value: Value) -> Result<()> {
        let (kind, count, elements): (AttributeType, usize, *const c_void) = match &value {
            Value::Integers(values) => (CUDNN_TYPE_INT64, values.len(), values.as_ptr().cast()),
            Value::Text(text) => (CUDNN_TYPE_CHAR, text.len(), text.as_ptr().cast()),
            Value::Addresses(values) => (CUDNN_TYPE_VOID_PTR, values.len(), values.as_ptr().cast()),
            Value::Float(value) => (CUDNN_TYPE_FLOAT, 1, ptr::from_ref(value).cast()),
            Value::DataType(value) => (CUDNN_TYPE_DATA_TYPE, 1, ptr::from_ref(value).cast()),
            Value::ConvolutionMode(value) => {
                (CUDNN_TYPE_CONVOLUTION_MODE, 1, ptr::from_ref(value).cast())
            }
            Value::HeuristicMode(value) => (CUDNN_TYPE_HEUR_MODE, 1, ptr::from_ref(value).cast()),
            Value::Handle(value) => (CUDNN_TYPE_HANDLE, 1, ptr::from_ref(value).cast()),
            Value::Descriptor(value) => {
                (CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, ptr::from_ref(&value.raw).cast())
            }
        };
        // SAFETY: `elements` points to `count` elements of that type, which cuDNN copies. A device
        // address is as wide as a pointer.
        let status =
            unsafe { sys::cudnnBackendSetAttribute(self.raw, name, kind, count as i64, elements) };
        check(status, || format!("setting {name:?} of {:?}", self.kind))
    }

    /// Reads an attribute and returns its number of elements.
    ///
    /// # Safety
    ///
    /// `elements` must point to space for `room` elements of that type; it may be null if that is
    /// 0.
    unsafe fn get(
        &self,
        name: Attribute,
        kind: AttributeType,
        room: usize,
        elements: *mut c_void,
    ) -> Result<usize> {
        let (raw, room, mut count) = (self.raw, room as i64, 0);
        // SAFETY: the caller guarantees `elements`.
        let status =
            unsafe { sys::cudnnBackendGetAttribute(raw, name, kind, room, &mut count, elements) };
        check(status, || format!("getting {name:?} of {:?}", self.kind))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub fn integer(&self, name: Attribute) -> Result<i64> {
        let mut integer = 0i64;
        // SAFETY: there is space for one integer.
        unsafe { self.get(name, CUDNN_TYPE_INT64, 1, (&raw mut integer).cast()) }?;
        Ok(integer)
    }

    /// The numbers of the notes. They are not read as cudarc's enum, because a newer cuDNN may have
    /// notes that the enum lacks.
    pub fn numerical_notes(&self) -> Result<Vec<u32>> {
        let (name, kind) = (CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE);
        // SAFETY: nothing is read but the count.
        let count = unsafe { self.get(name, kind, 0, ptr::null_mut()) }?;
        let mut notes = vec![0; count];
        // SAFETY: the vector has `count` elements.
        unsafe { self.get(name, kind, count, notes.as_mut_ptr().cast()) }?;
        Ok(notes)
    }

    /// Descriptors of one kind, which cuDNN fills in.
    pub fn descriptors(&self, name: Attribute, kind: DescriptorType) -> Result<Vec<Descriptor>> {
        let of = CUDNN_TYPE_BACKEND_DESCRIPTOR;
        // SAFETY: nothing is read but the count.
        let count = unsafe { self.get(name, of, 0, ptr::null_mut()) }?;
        let mut descriptors =
            (0..count).map(|_| Descriptor::new(kind)).collect::<Result<Vec<_>>>()?;
        let mut raw = descriptors.iter().map(|descriptor| descriptor.raw).collect::<Vec<_>>();
        // SAFETY: the vector has `count` descriptors.
        let filled = unsafe { self.get(name, of, count, raw.as_mut_ptr().cast()) }?;
        descriptors.truncate(filled);
        Ok(descriptors)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor was made by `new`, and nothing else destroys it.
        unsafe { sys::cudnnBackendDestroyDescriptor(self.raw) };
    }
}
