//! How a process finds the others of its run.

use scrl_cli::{LocalWorld, World};

use super::Ranks;
use crate::{Error, Result};

/// Connects this process with the others of `world`, which `launcher` started. Alone, it needs none.
///
/// # Errors
/// [`Error::Ranks`] if this build cannot, or MPI counts other processes than the launcher.
pub fn start(world: World, launcher: Option<&str>) -> Result<Ranks> {
    if world == World::ALONE {
        return Ok(Ranks::default());
    }
    connect(world, launcher.unwrap_or("--world-size"))
}

#[cfg(feature = "mpi")]
fn connect(world: World, launcher: &str) -> Result<Ranks> {
    let refuse = |reason: String| Err(Error::Ranks(reason));
    let Some(mpi) = super::mpi::Mpi::start() else {
        return refuse("this MPI library does not serve programs with threads".to_owned());
    };
    let ranks = Ranks::new(mpi);
    let found = ranks.world();
    if found == world {
        return Ok(ranks);
    }
    refuse(format!(
        "{launcher} says {world}, MPI says {found}; start scrl-train with the mpirun, or srun \
         --mpi, of the MPI library it was built with"
    ))
}

#[cfg(not(feature = "mpi"))]
fn connect(world: World, launcher: &str) -> Result<Ranks> {
    Err(Error::Ranks(format!(
        "{world}, by {launcher}, but this build trains in one process; build it with --features mpi"
    )))
}

/// Ends all ranks if the thread that holds it panics: they would wait for this one forever.
pub struct AbortOnPanic<'a>(pub &'a Ranks);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort(1);
        }
    }
}

/// The threads for each rank of this machine, where none are asked for: an equal part of the cores
/// that the process may use. Where the launcher has bound it to some of the machine's cores, those
/// are its part already.
pub fn threads_of_rank() -> usize {
    let usable = scrl_cli::threads(None);
    // SAFETY: reads a number.
    let all = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let is_bound = usize::try_from(all).is_ok_and(|all| usable < all);
    let ranks = if is_bound { 1 } else { LocalWorld::detect().size as usize };
    (usable / ranks).max(1)
}
