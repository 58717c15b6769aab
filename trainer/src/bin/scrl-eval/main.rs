//! `scrl-eval`: the accuracy of a linear layer or of nearest neighbors on a backbone's features.

mod cli;

use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::{Reporter, Stop, World, usage_error};
use scrl_trainer::Error;
use scrl_trainer::collective::{self, Ranks, threads_of_rank};
use scrl_trainer::evaluate::{
    EvalConfig, Results, evaluate_boxes, evaluate_images, evaluate_neighbors,
};

use cli::{Arguments, ProcessOptions, Protocol};

fn main() -> ExitCode {
    let arguments: Arguments = scrl_cli::parse();
    let (Protocol::Roi { process, .. }
    | Protocol::Linear { process, .. }
    | Protocol::Knn { process, .. }) = &arguments.protocol;
    let world = World::detect(&process.world)
        .unwrap_or_else(|error| usage_error::<Arguments>(error).exit());
    collective::run("scrl-eval", world, |ranks| run(arguments, ranks))
}

fn run(arguments: Arguments, ranks: &Ranks) -> Result<()> {
    match arguments.protocol {
        Protocol::Roi { options, process } => {
            let config = options.resolve()?;
            let protocol = |reporter: &Reporter| evaluate_boxes(&config, ranks, reporter);
            evaluate(&process, &config.common, ranks, protocol)
        }
        Protocol::Linear { options, process } => {
            let config = options.resolve()?;
            let protocol = |reporter: &Reporter| evaluate_images(&config, ranks, reporter);
            evaluate(&process, &config.common, ranks, protocol)
        }
        Protocol::Knn { options, process } => {
            let config = options.resolve()?;
            let protocol = |reporter: &Reporter| evaluate_neighbors(&config, ranks, reporter);
            evaluate(&process, &config.common, ranks, protocol)
        }
    }
}

/// Runs a protocol, writes its results, and prints their table.
fn evaluate(
    process: &ProcessOptions,
    config: &EvalConfig,
    ranks: &Ranks,
    protocol: impl FnOnce(&Reporter) -> Result<Option<Results>, Error>,
) -> Result<()> {
    let threads = process.threads.map_or_else(threads_of_rank, usize::from);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let reporter = Reporter::new(process.quiet || !ranks.is_first(), Stop::on_ctrl_c()?);
    if let Some(reason) = &config.backbone.device.why_cpu {
        reporter.say(format_args!("note: on the CPU, as {reason}"));
    }
    let results = protocol(&reporter);
    reporter.end();
    let Some(results) = results? else { return Ok(()) };
    let [json, png] = results.write(&config.out)?;
    if !process.quiet {
        scrl_cli::print(results.table());
        let Results { arch, checkpoint, device, .. } = results;
        let (json, png) = (json.display(), png.display());
        scrl_cli::print(format_args!("{arch} of {checkpoint} on {device}: {json}, {png}"));
    }
    Ok(())
}
