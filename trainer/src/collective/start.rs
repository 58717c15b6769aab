//! How a process finds the others of its run.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use scrl_cli::{LocalWorld, World};

use super::tcp::Tcp;
use super::{Ranks, address};
use crate::{Error, Result};

/// Connects this process with the others of `world`, which `launcher` started. Alone, it needs none.
///
/// mpirun's and srun's processes find each other by MPI where this build has it, all others by the
/// first rank's address: see the table in `docs/distributed.md`.
///
/// To be called before there are threads: it sets environment variables.
///
/// # Errors
/// [`Error::Ranks`] if they do not find each other, or MPI counts other processes than the launcher.
fn start(program: &'static str, world: World, launcher: Option<&str>) -> Result<Ranks> {
    if world == World::ALONE {
        return Ok(Ranks::default());
    }
    #[cfg(feature = "nccl")]
    super::nccl::set_environment();
    #[cfg(feature = "mpi")]
    match launcher {
        Some("mpirun" | "mpiexec") => return by_mpi(world, launcher),
        Some("srun") if std::env::var_os("MASTER_ADDR").is_none() => {
            return by_mpi(world, launcher);
        }
        _ => {}
    }
    let refuse = |reason: String| {
        let launcher = launcher.unwrap_or("--world-size");
        let advice = match launcher {
            "mpirun" | "mpiexec" if !cfg!(feature = "mpi") => "build with --features mpi, or ",
            _ => "",
        };
        Error::Ranks(format!("{world}, by {launcher}: {advice}{reason}"))
    };
    let address = address::of_first_rank(|name| std::env::var(name).ok()).map_err(refuse)?;
    Ok(Ranks::new(Tcp::connect(program, world, &address).map_err(refuse)?))
}

#[cfg(feature = "mpi")]
fn by_mpi(world: World, launcher: Option<&str>) -> Result<Ranks> {
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
        "{} says {world}, MPI says {found}; start scrl-train with the mpirun, or srun --mpi, of the \
         MPI library it was built with, or set MASTER_ADDR",
        launcher.unwrap_or("the launcher")
    ))
}

/// The time that a rank leaves the first one to report an error that all have, and to end them.
const FIRST_RANKS_TURN: Duration = Duration::from_secs(3);

/// Runs `work` of `program` on this rank of `world`, and ends all ranks where it fails on one: in one
/// line, which the first rank prints if all have the error. Returns this process's exit code.
pub fn run(
    program: &'static str,
    (world, launcher): (World, Option<&str>),
    work: impl FnOnce(&Ranks) -> anyhow::Result<()>,
) -> ExitCode {
    let ranks = match start(program, world, launcher) {
        Ok(ranks) => ranks,
        Err(error) => {
            if world.rank > 0 {
                thread::sleep(FIRST_RANKS_TURN);
            }
            return scrl_cli::fail::<Error>(program, &error.into());
        }
    };
    let _abort = AbortOnPanic(&ranks);
    let error = match work(&ranks) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    if ranks.is_first() {
        let code = scrl_cli::fail::<Error>(program, &error);
        if ranks.is_alone() {
            return code;
        }
    } else {
        thread::sleep(FIRST_RANKS_TURN);
        if !error.downcast_ref().is_some_and(Error::is_of_all_ranks) {
            scrl_cli::fail::<Error>(&format!("{program}, {ranks}"), &error);
        }
    }
    ranks.abort(scrl_cli::ending::<Error>(&error) as u8)
}

/// Ends all ranks if the thread that holds it panics: they would wait for this one forever.
struct AbortOnPanic<'a>(&'a Ranks);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
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
