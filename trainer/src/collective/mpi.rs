//! Ranks that an MPI launcher started.

use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::Collective;

/// The processes of `MPI_COMM_WORLD`.
pub(super) struct Mpi {
    world: SimpleCommunicator,
    /// Finalizes MPI when it is dropped, which waits for the other ranks.
    _universe: Universe,
}

// SAFETY: a communicator is a handle, which MPI lets several threads use under `Threading::Multiple`;
// `start` gets that or nothing.
unsafe impl Send for Mpi {}
// SAFETY: as above.
unsafe impl Sync for Mpi {}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mpi({} of {})", self.rank(), self.size())
    }
}

impl Mpi {
    /// Initializes MPI for several threads: the one that trains exchanges bytes, but any may abort.
    /// `None` where the library cannot do that, or was initialized before.
    pub fn start() -> Option<Self> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Multiple)?;
        let world = universe.world();
        (threading == Threading::Multiple).then_some(Self { world, _universe: universe })
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn all_gather(&self, bytes: &[u8], all: &mut [u8]) {
        // Nothing to exchange, on any rank. An empty slice may begin at the address 1, which MPI
        // takes for MPI_IN_PLACE.
        if !bytes.is_empty() {
            self.world.all_gather_into(bytes, all);
        }
    }

    fn all_to_all(&self, bytes: &[u8], parts: &mut [u8]) {
        if !bytes.is_empty() {
            self.world.all_to_all_into(bytes, parts);
        }
    }

    fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }
}
