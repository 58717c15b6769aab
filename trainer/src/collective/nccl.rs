//! Tensors of GPUs, gathered and added up by NCCL.
//!
//! Two communicators connect the same GPUs. Gradients are added up on one, in buckets that take
//! milliseconds, while the other gathers the statistics of batch norms, which the computation waits
//! for: NCCL runs the operations of one communicator one after the other, so that on a single one
//! each gather would wait for every bucket before it.
//!
//! An operation's kernel waits on the GPU for the same operation of the other ranks. Two
//! communicators are safe only if all GPUs begin their operations in one order; otherwise each GPU
//! could be full of kernels that wait for one which has no room on another GPU. NCCL 2.26 and newer
//! keep the order of the host's calls with `NCCL_LAUNCH_ORDER_IMPLICIT`: a kernel begins when the
//! one called before it has begun. Every rank calls from one thread and in the same order. So a
//! gather waits for the begin of the last bucket, and with it for the end of the buckets before
//! that.

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

/// Milliseconds for exchanges to end when the run does.
const GRACE: u32 = 1000;

/// The oldest version that keeps the order of two communicators. Before 2.24 a setting for one
/// function, such as `allreduce:simple`, was an unknown protocol, which left NCCL without any.
const OLDEST: (i32, i32) = (2, 26);

/// What NCCL is told. What the user has set stays.
///
/// Sums of gradients have the same bits in every run on the same GPUs: NCCL chooses algorithm and
/// protocol by a model of the time that they take, and both decide in which order numbers are
/// added. With one of each, and without sums inside the switch, the order follows from the machine
/// and the sizes. Gathers add nothing, so their bits are the same by any way, and NCCL's model
/// gives a small one among eight GPUs on NVLink 11 µs by its fastest protocol where `simple` takes
/// 32.
const SETTINGS: [(&str, &str); 4] = [
    ("NCCL_ALGO", "allreduce:ring"),
    ("NCCL_PROTO", "allreduce:simple"),
    ("NCCL_NVLS_ENABLE", "0"),
    ("NCCL_LAUNCH_ORDER_IMPLICIT", "1"),
];

/// Sets what NCCL reads from the environment. To be called before there are other threads.
pub(super) fn set_environment() {
    for (name, value) in SETTINGS {
        if std::env::var_os(name).is_none() {
            // SAFETY: no other thread reads the environment, as none is running yet.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// The GPUs of all ranks.
#[derive(Debug)]
pub(super) struct Nccl {
    /// Gathers on the stream of the computation.
    gathering: Communicator,
    stream: Arc<CudaStream>,
    /// Adds up on a stream beside the computation.
    summing: Communicator,
    sums: Arc<CudaStream>,
    size: usize,
    /// What has been computed, and what has been summed up.
    computed: CudaEvent,
    summed: CudaEvent,
    /// The thread that watches the communicators, and what ends it when it is dropped.
    watch: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Clone, Copy, Debug)]
struct Communicator(ncclComm_t);

// SAFETY: NCCL lets any thread use a communicator. Two use each: the thread that trains, and one
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
        check_version()?;
        let stream = device.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().map_err(wrap)?;
        let gathering = Communicator::connect(ranks)?;
        let summing = Communicator::connect(ranks).inspect_err(|_| gathering.abort())?;
        let (end, ended) = channel();
        let hosts = ranks.clone();
        let watch = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
                if let Err(error) = gathering.state().and_then(|()| summing.state()) {
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
            gathering,
            summing,
            sums: context.new_stream().map_err(wrap)?,
            size: ranks.size(),
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
                self.gathering.0,
                self.stream.cu_stream().cast(),
            )
        })
    }

    /// Begins to replace contiguous float32 tensors by their sums over the ranks, as soon as what
    /// has been enqueued so far is computed.
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
                    self.summing.0,
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
        // Where a run ends well, exchanges end too. Those that do not are of a rank that fails, and
        // the other ranks may never take part in them: to destroy a communicator would wait for
        // them.
        let ends = |event: &CudaEvent, stream| {
            event.record(stream).is_ok()
                && (0..GRACE).any(|_| {
                    thread::sleep(Duration::from_millis(1));
                    event.is_complete()
                })
        };
        let is_done = ends(&self.computed, &self.stream) && ends(&self.summed, &self.sums);
        for communicator in [self.gathering, self.summing] {
            if is_done {
                communicator.destroy();
            } else {
                communicator.abort();
            }
        }
    }
}

impl Communicator {
    /// Connects the devices that are current on the ranks' threads.
    fn connect(ranks: &Ranks) -> std::result::Result<Self, String> {
        let mut id = MaybeUninit::<sys::ncclUniqueId>::zeroed();
        if ranks.is_first() {
            // SAFETY: `id` is a place for the id.
            check(unsafe { sys::ncclGetUniqueId(id.as_mut_ptr()) }).map_err(|e| e.to_string())?;
        }
        // SAFETY: an id is bytes, of which any are valid.
        let mut id = unsafe { id.assume_init() };
        let of_ranks = ranks.gather(&id.internal.map(|byte| byte as u8));
        id.internal.iter_mut().zip(of_ranks).for_each(|(byte, first)| *byte = first as _);

        let mut communicator = std::ptr::null_mut();
        // SAFETY: `communicator` is a place for it, and the device is this thread's.
        check(unsafe {
            sys::ncclCommInitRank(&mut communicator, ranks.size() as i32, id, ranks.rank() as i32)
        })
        .map_err(|error| error.to_string())?;
        Ok(Self(communicator))
    }

    /// The error of a connection, if there is one.
    fn state(self) -> Result<()> {
        let mut state = ncclSuccess;
        // SAFETY: `state` is a place for it, and the communicator lives while it is watched.
        check(unsafe { sys::ncclCommGetAsyncError(self.0, &mut state) })?;
        check(state)
    }

    /// Ends it when its exchanges are over. It must not be used afterwards.
    fn destroy(self) {
        // SAFETY: this is its last use.
        unsafe { sys::ncclCommDestroy(self.0) };
    }

    /// Ends it with exchanges under way. It must not be used afterwards.
    fn abort(self) {
        // SAFETY: this is its last use.
        unsafe { sys::ncclCommAbort(self.0) };
    }
}

/// Refuses a library that is too old for two communicators.
fn check_version() -> std::result::Result<(), String> {
    let mut version = 0;
    // SAFETY: `version` is a place for it.
    check(unsafe { sys::ncclGetVersion(&mut version) }).map_err(|error| error.to_string())?;
    let (major, minor) = (version / 10_000, version / 100 % 100);
    if (major, minor) >= OLDEST {
        return Ok(());
    }
    Err(format!(
        "NCCL {major}.{minor} is too old for scrl-train, which needs {}.{}: install a newer \
         libnccl.so.2, or put its folder first in LD_LIBRARY_PATH",
        OLDEST.0, OLDEST.1
    ))
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
