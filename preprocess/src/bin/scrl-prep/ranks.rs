//! Which share of the work is this process's, as told by options or by whoever started it.

use scrl_preprocess::config::Share;

/// Starters, by the variables that give a process's number and how many there are.
const STARTERS: [(&str, &str, &str); 4] = [
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_NTASKS"),
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Kubernetes indexed job", "JOB_COMPLETION_INDEX", "WORLD_SIZE"),
];

/// The share, and where it was read from if not from the options.
///
/// # Errors
/// One line that names the option or variable without sense.
pub fn find_share(
    rank: Option<u32>,
    world_size: Option<u32>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(Share, Option<&'static str>), String> {
    if let (Some(rank), Some(world)) = (rank, world_size) {
        return Ok((checked(rank, world, "--rank", "--world-size")?, None));
    }
    if rank.is_some() {
        return Err("--rank needs --world-size beside it".to_owned());
    }
    let number = |name: &str| {
        let text = variable(name).filter(|text| !text.is_empty());
        text.map(|text| text.parse::<u32>().map_err(|_| format!("{name} is {text:?}, not a number")))
            .transpose()
    };
    for (starter, rank_name, world_name) in STARTERS {
        let Some(found) = number(rank_name)? else { continue };
        let Some(world) = world_size.map_or_else(|| number(world_name), |world| Ok(Some(world)))? else {
            continue;
        };
        return Ok((checked(found, world, rank_name, world_name)?, Some(starter)));
    }
    match world_size {
        None if number("JOB_COMPLETION_INDEX")?.is_some() => {
            Err("JOB_COMPLETION_INDEX is set; say with --world-size how many completions the job has"
                .to_owned())
        }
        None | Some(1) => Ok((Share::WHOLE, None)),
        Some(_) => Err("--world-size needs --rank beside it".to_owned()),
    }
}

fn checked(rank: u32, world: u32, rank_name: &str, world_name: &str) -> Result<Share, String> {
    if rank < world {
        Ok(Share { rank, world })
    } else {
        Err(format!("{rank_name} {rank} must be less than {world_name} {world}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(rank: Option<u32>, world: Option<u32>, set: &[(&str, &str)]) -> Result<(u32, u32), String> {
        let variable =
            |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        find_share(rank, world, variable).map(|(share, _)| (share.rank, share.world))
    }

    #[test]
    fn every_starter_is_understood_and_options_win() {
        assert_eq!(find(None, None, &[]), Ok((0, 1)));
        assert_eq!(
            find(None, None, &[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")]),
            Ok((3, 4))
        );
        assert_eq!(find(None, None, &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), Ok((0, 8)));
        assert_eq!(find(None, None, &[("RANK", "1"), ("WORLD_SIZE", "2")]), Ok((1, 2)));
        let kubernetes = [("JOB_COMPLETION_INDEX", "5")];
        assert_eq!(find(None, Some(6), &kubernetes), Ok((5, 6)));
        assert_eq!(find(Some(0), Some(3), &[("RANK", "1"), ("WORLD_SIZE", "2")]), Ok((0, 3)));
        // A variable without its partner belongs to something else.
        assert_eq!(find(None, None, &[("RANK", "1")]), Ok((0, 1)));
        assert_eq!(find(None, Some(1), &[]), Ok((0, 1)));
    }

    #[test]
    fn nonsense_is_named() {
        for (rank, world, set, expected) in [
            (Some(2), Some(2), &[][..], "--rank 2 must be less"),
            (Some(0), None, &[], "--world-size"),
            (None, Some(3), &[], "--rank"),
            (None, None, &[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK is \"x\""),
            (None, None, &[("RANK", "2"), ("WORLD_SIZE", "2")], "RANK 2 must be less"),
            (None, None, &[("JOB_COMPLETION_INDEX", "1")], "--world-size"),
        ] {
            let message = find(rank, world, set).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
