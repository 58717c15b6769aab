//! Where ranks without MPI find the first one.

/// MASTER_PORT where it is not set, as in PyTorch.
const USUAL_PORT: u16 = 29500;

/// The ports of Slurm's jobs: from the first, by the number of the job.
const SLURM_PORTS: (u64, u64) = (20_000, 20_000);

/// The first rank's host and a port that is free there: that after torchrun's own, or one for each
/// job of Slurm.
///
/// # Errors
/// One line that says what to set.
pub(super) fn of_first_rank(variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let set = |name: &str| variable(name).filter(|text| !text.is_empty());
    if let Some(host) = set("MASTER_ADDR") {
        let port = match set("MASTER_PORT") {
            None => USUAL_PORT,
            Some(text) => text.parse().map_err(|_| format!("MASTER_PORT is {text:?}, no port"))?,
        };
        let port = port.checked_add(1).ok_or("MASTER_PORT must be below 65535")?;
        // An IPv6 address has colons of its own.
        let is_bare = host.contains(':') && !host.starts_with('[');
        return Ok(if is_bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
    }
    if let Some(hosts) = set("SLURM_STEP_NODELIST") {
        let number = |name| set(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let (first, ports) = SLURM_PORTS;
        let port = first + (number("SLURM_JOB_ID") + number("SLURM_STEP_ID")) % ports;
        return Ok(format!("{}:{port}", first_host(&hosts)));
    }
    Err("set MASTER_ADDR to the host of rank 0, and MASTER_PORT if 29500 and 29501 are not free"
        .to_owned())
}

/// The first of Slurm's list of hosts: `gpu03` of `gpu[03-05,7],login1`.
fn first_host(hosts: &str) -> String {
    let end = hosts.find([',', '[']).unwrap_or(hosts.len());
    let (name, rest) = hosts.split_at(end);
    let Some(ranges) = rest.strip_prefix('[') else { return name.to_owned() };
    let number: String = ranges.chars().take_while(char::is_ascii_digit).collect();
    let suffix = ranges.split_once(']').map_or("", |(_, suffix)| suffix);
    let suffix = suffix.split(',').next().unwrap_or("");
    format!("{name}{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_name_the_first_rank() {
        for (set, expected) in [
            (&[("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1234")][..], "localhost:1235"),
            (&[("MASTER_ADDR", "train-0.train")], "train-0.train:29501"),
            (&[("MASTER_ADDR", "fe80::1")], "[fe80::1]:29501"),
            (&[("SLURM_STEP_NODELIST", "gpu7"), ("SLURM_JOB_ID", "20017")], "gpu7:20017"),
            (
                &[
                    ("SLURM_STEP_NODELIST", "gpu[03-05,7],login1"),
                    ("SLURM_JOB_ID", "5"),
                    ("SLURM_STEP_ID", "2"),
                ],
                "gpu03:20007",
            ),
            (&[("SLURM_STEP_NODELIST", "a1,b[1-2]")], "a1:20000"),
            (&[("SLURM_STEP_NODELIST", "rack[1-2]-gpu,b1")], "rack1-gpu:20000"),
            (&[("MASTER_ADDR", "a"), ("SLURM_STEP_NODELIST", "b")], "a:29501"),
        ] {
            let variable = |name: &str| {
                set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(of_first_rank(variable).as_deref(), Ok(expected), "{set:?}");
        }
        assert!(of_first_rank(|_| None).unwrap_err().contains("MASTER_ADDR"));
        let no_port = |name: &str| Some(if name == "MASTER_PORT" { "x" } else { "a" }.to_owned());
        assert!(of_first_rank(no_port).unwrap_err().contains("MASTER_PORT"));
    }
}
