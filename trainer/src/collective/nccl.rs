//! Tensors of GPUs, gathered and added up by NCCL.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use candle_core::{CudaDevice, Error, Result, Tensor};
use cudarc::driver::{CudaEvent, CudaStream};
use cudarc::nccl::sys::ncclResult_t::{ncclInProgress, ncclSuccess};
use cudarc::nccl::sys::{self, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t};

use super::Ranks;
use crate::ops::gpu::address;

/// Between two looks for an error of a connection.
const LOOK: Duration = Duration::from_secs(1);

/// Choices of NCCL that could differ from run to run, and with them the order of additions. What the
/// user has set stays.
const REPEATED: [(&str, &str); 3] =
    [("NCCL_NVLS_ENABLE", "0"), ("NCCL_ALGO", "Ring"), ("NCCL_PROTO", "Simple")];

/// Lets NCCL add in the same order in every run. To be called before there are other threads.
pub(super) fn repeat_bits() {
    for (name, value) in REPEATED {
        if std::env::var_os(name).is_none() {
            // SAFETY: no other thread reads the environment, as none is running yet.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// The GPUs of all ranks.
#[derive(Debug)]
pub(super) struct Nccl {
    communicator: Communicator,
    size: usize,
    /// The stream of the computation.
    stream: Arc<CudaStream>,
    /// The stream of sums, which run beside the computation. NCCL itself keeps what is on one
    /// communicator in the order of the calls.
    sums: Arc<CudaStream>,
    /// What has been computed, and what has been summed up.
    computed: CudaEvent,
    summed: CudaEvent,
    /// The thread that watches the communicator, and what ends it when it is dropped.
    watch: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Clone, Copy, Debug)]
struct Communicator(ncclComm_t);

// SAFETY: NCCL lets any thread use a communicator. Two use this one: the thread that trains, and one
// that only asks for errors.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl Nccl {
    /// Connects `device` with those of the other ranks.
    ///
    /// # Errors
    /// NCCL's own words.
    pub fn connect(ranks: &Ranks, device: &CudaDevice) -> std::result::Result<Arc<Self>, String> {
        let wrap = |error: cudarc::driver::DriverError| format!("NCCL: {error}");
        let mut id = MaybeUninit::<sys::ncclUniqueId>::zeroed();
        if ranks.is_first() {
            // SAFETY: `id` is a place for the id.
            check(unsafe { sys::ncclGetUniqueId(id.as_mut_ptr()) }).map_err(|e| e.to_string())?;
        }
        // SAFETY: an id is bytes, of which any are valid.
        let mut id = unsafe { id.assume_init() };
        let of_ranks = ranks.gather(&id.internal.map(|byte| byte as u8));
        id.internal.iter_mut().zip(of_ranks).for_each(|(byte, first)| *byte = first as _);

        let stream = device.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().map_err(wrap)?;
        let mut communicator = std::ptr::null_mut();
        // SAFETY: `communicator` is a place for it, and the device is this thread's.
        check(unsafe {
            sys::ncclCommInitRank(&mut communicator, ranks.size() as i32, id, ranks.rank() as i32)
        })
        .map_err(|error| error.to_string())?;
        let communicator = Communicator(communicator);
        let (end, ended) = channel();
        let hosts = ranks.clone();
        let watch = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
                if let Err(error) = communicator.state() {
                    eprintln!("scrl-train, {hosts}: {error}");
                    hosts.abort(1);
                }
            }
        };
        let watch = thread::Builder::new()
            .name("watch-nccl".to_owned())
            .spawn(watch)
            .map_err(|error| format!("a thread could not be started: {error}"))?;
        Ok(Arc::new(Self {
            communicator,
            size: ranks.size(),
            sums: context.new_stream().map_err(wrap)?,
            computed: context.new_event(None).map_err(wrap)?,
            summed: context.new_event(None).map_err(wrap)?,
            stream,
            watch: Some((end, watch)),
        }))
    }

    /// Fills `all`, `[ranks, …]`, with the contiguous float32 tensors of all ranks, in the order of
    /// the device's work.
    pub fn gather(&self, own: &Tensor, all: &Tensor) -> Result<()> {
        let count = own.elem_count();
        assert_eq!(all.elem_count(), self.size * count, "room for all ranks");
        let (from, to) = (address(own)?, address(all)?);
        // SAFETY: both hold as many numbers, and live until the device has passed this call, as
        // their memory is freed in the order of the stream.
        check(unsafe {
            sys::ncclAllGather(
                from as *const _,
                to as *mut _,
                count,
                ncclDataType_t::ncclFloat32,
                self.communicator.0,
                self.stream.cu_stream().cast(),
            )
        })
    }

    /// Begins to replace contiguous float32 tensors by their sums over the ranks, as soon as what has
    /// been enqueued so far is computed.
    pub fn sum(&self, tensors: &[Tensor]) -> Result<()> {
        self.computed.record(&self.stream).map_err(Error::wrap)?;
        self.sums.wait(&self.computed).map_err(Error::wrap)?;
        // One launch for all.
        // SAFETY: the group is ended below.
        check(unsafe { sys::ncclGroupStart() })?;
        let begun = tensors.iter().try_for_each(|tensor| {
            let numbers = address(tensor)? as *mut _;
            // SAFETY: the tensor holds these numbers, which nothing else uses before
            // `wait_for_sums`, and its memory is freed after that.
            check(unsafe {
                sys::ncclAllReduce(
                    numbers,
                    numbers,
                    tensor.elem_count(),
                    ncclDataType_t::ncclFloat32,
                    ncclRedOp_t::ncclSum,
                    self.communicator.0,
                    self.sums.cu_stream().cast(),
                )
            })
        });
        // SAFETY: the group was started above.
        begun.and(check(unsafe { sys::ncclGroupEnd() }))
    }

    /// Lets the device's later work wait for the sums.
    pub fn wait_for_sums(&self) -> Result<()> {
        self.summed.record(&self.sums).map_err(Error::wrap)?;
        self.stream.wait(&self.summed).map_err(Error::wrap)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // After an error the communicator may wait for ranks that have ended; the process ends too.
        if thread::panicking() {
            return;
        }
        if let Some((end, watch)) = self.watch.take() {
            drop(end);
            // It ends by itself, or ends the process.
            let _ = watch.join();
        }
        // SAFETY: this is the communicator's only owner now.
        unsafe { sys::ncclCommDestroy(self.communicator.0) };
    }
}

impl Communicator {
    /// The error of a connection, if there is one.
    fn state(self) -> Result<()> {
        let mut state = ncclSuccess;
        // SAFETY: `state` is a place for it, and the communicator lives while it is watched.
        check(unsafe { sys::ncclCommGetAsyncError(self.0, &mut state) })?;
        check(state)
    }
}

fn check(result: ncclResult_t) -> Result<()> {
    if matches!(result, ncclSuccess | ncclInProgress) {
        return Ok(());
    }
    // SAFETY: both are texts that NCCL keeps.
    let [what, why] = unsafe {
        [sys::ncclGetErrorString(result), sys::ncclGetLastError(std::ptr::null_mut())].map(|text| {
            if text.is_null() { "".into() } else { CStr::from_ptr(text).to_string_lossy() }
        })
    };
    let why = why.trim();
    let cause = if why.is_empty() { String::new() } else { format!(" ({why})") };
    Err(Error::Msg(format!("NCCL: {what}{cause}")))
}
