//! Rank and world size of a process.

use std::fmt;

use clap::Args;

/// Launchers in the order in which they are tried, with the variables of rank and world size.
/// Slurm's are those of a step: `SLURM_PROCID` is also set in an sbatch script outside of srun.
const LAUNCHERS: [(&str, &str, &str); 5] = [
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Kubernetes indexed job", "JOB_COMPLETION_INDEX", "WORLD_SIZE"),
];

/// The variables that launchers set to the number of processes on this machine.
const LOCAL_SIZES: [&str; 4] = [
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_STEP_TASKS_PER_NODE",
];

/// The variables that launchers set to the process's number among those on this machine.
const LOCAL_RANKS: [&str; 4] =
    ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

/// The rank of a process and the world size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// The process's number, from 0.
    pub rank: u32,
    /// The number of processes, at least 1.
    pub size: u32,
}

/// The processes on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalWorld {
    /// The process's number among them, from 0.
    pub rank: u32,
    /// Their number, at least 1.
    pub size: u32,
}

impl LocalWorld {
    /// Reads both from the environment that a launcher set; a process alone on its machine where
    /// none did.
    pub fn detect() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        // Slurm writes 4 as 4, and 4 on each of two machines as 4(x2).
        let number = |name: &&str| -> Option<u32> {
            let text = variable(name)?;
            text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let rank = LOCAL_RANKS.iter().find_map(number).unwrap_or(0);
        let size = LOCAL_SIZES.iter().find_map(number).unwrap_or(1);
        Self { rank, size: size.max(rank + 1) }
    }
}

impl World {
    /// A process that does all the work.
    pub const ALONE: Self = Self { rank: 0, size: 1 };

    /// Reads rank and world size from the options, or from the environment that a launcher set.
    /// Returns also the launcher's name.
    ///
    /// # Errors
    /// One line that names the invalid option or variable.
    pub fn detect(options: &WorldOptions) -> Result<(Self, Option<&'static str>), String> {
        Self::from_variables(options, |name| std::env::var(name).ok())
    }

    fn from_variables(
        options: &WorldOptions,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Option<&'static str>), String> {
        let WorldOptions { rank, world_size } = *options;
        if let (Some(rank), Some(size)) = (rank, world_size) {
            return Ok((Self::checked(rank, size, "--rank", "--world-size")?, None));
        }
        if rank.is_some() {
            return Err("--rank needs --world-size beside it".to_owned());
        }
        let number = |name: &str| {
            let text = variable(name).filter(|text| !text.is_empty());
            let number = |text: String| {
                text.parse::<u32>().map_err(|_| format!("{name} is {text:?}, not a number"))
            };
            text.map(number).transpose()
        };
        for (launcher, rank_name, size_name) in LAUNCHERS {
            let Some(rank) = number(rank_name)? else { continue };
            let Some(size) = world_size.map_or_else(|| number(size_name), |size| Ok(Some(size)))?
            else {
                continue;
            };
            return Ok((Self::checked(rank, size, rank_name, size_name)?, Some(launcher)));
        }
        match world_size {
            None if number("JOB_COMPLETION_INDEX")?.is_some() => {
                let advice = "give the number of completions of the job with --world-size";
                Err(format!("JOB_COMPLETION_INDEX is set; {advice}"))
            }
            None | Some(1) => Ok((Self::ALONE, None)),
            Some(_) => Err("--world-size needs --rank beside it".to_owned()),
        }
    }

    fn checked(rank: u32, size: u32, rank_name: &str, size_name: &str) -> Result<Self, String> {
        if rank < size {
            Ok(Self { rank, size })
        } else {
            Err(format!("{rank_name} {rank} must be less than {size_name} {size}"))
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

/// The options of a program that divides its work among processes.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WorldOptions {
    /// Number of this process, from 0, among several that share the work [default: from torchrun,
    /// mpirun, srun, …]
    #[arg(long, value_name = "R")]
    pub rank: Option<u32>,

    /// Number of processes that share the work [default: likewise, or 1]
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..))]
    pub world_size: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(
        rank: Option<u32>,
        world_size: Option<u32>,
        set: &[(&str, &str)],
    ) -> Result<(u32, u32), String> {
        let variable = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let found = World::from_variables(&WorldOptions { rank, world_size }, variable);
        found.map(|(world, _)| (world.rank, world.size))
    }

    #[test]
    fn every_launcher_is_understood_and_options_win() {
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "2")];
        let mpirun = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let sbatch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")];
        let srun = [sbatch[0], sbatch[1], ("SLURM_STEP_NUM_TASKS", "4")];
        for (rank, world_size, set, expected) in [
            (None, None, &[][..], (0, 1)),
            (None, None, &torchrun, (1, 2)),
            (None, None, &mpirun, (3, 4)),
            (None, None, &[mpirun[0], mpirun[1], torchrun[0], torchrun[1]], (1, 2)),
            (None, None, &[("PMI_RANK", "2"), ("PMI_SIZE", "3")], (2, 3)),
            (None, None, &srun, (0, 4)),
            // A batch script outside of srun is one process.
            (None, None, &sbatch, (0, 1)),
            (None, Some(6), &[("JOB_COMPLETION_INDEX", "5")], (5, 6)),
            (Some(0), Some(3), &torchrun, (0, 3)),
            // A variable without its partner belongs to something else.
            (None, None, &torchrun[..1], (0, 1)),
            (None, Some(1), &[], (0, 1)),
        ] {
            assert_eq!(detect(rank, world_size, set), Ok(expected), "{set:?}");
        }
    }

    #[test]
    fn the_processes_of_a_machine_are_counted() {
        for (set, expected) in [
            (&[][..], (0, 1)),
            (&[("LOCAL_RANK", "3"), ("LOCAL_WORLD_SIZE", "8")], (3, 8)),
            (&[("OMPI_COMM_WORLD_LOCAL_RANK", "1"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")], (1, 2)),
            (&[("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "4")], (1, 4)),
            (&[("SLURM_LOCALID", "2"), ("SLURM_STEP_TASKS_PER_NODE", "4(x2),1")], (2, 4)),
        ] {
            let variable = |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            let LocalWorld { rank, size } = LocalWorld::from_variables(variable);
            assert_eq!((rank, size), expected, "{set:?}");
        }
    }

    #[test]
    fn invalid_values_are_named() {
        for (rank, world_size, set, expected) in [
            (Some(2), Some(2), &[][..], "--rank 2 must be less"),
            (Some(0), None, &[], "--world-size"),
            (None, Some(3), &[], "--rank"),
            (None, None, &[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK is \"x\""),
            (None, None, &[("RANK", "2"), ("WORLD_SIZE", "2")], "RANK 2 must be less"),
            (None, None, &[("JOB_COMPLETION_INDEX", "1")], "--world-size"),
        ] {
            let message = detect(rank, world_size, set).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
