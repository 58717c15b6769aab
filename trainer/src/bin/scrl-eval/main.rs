//! `scrl-eval`: the accuracy of backbones by their features.

mod cli;

use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::{Reporter, Stop, World, usage_error};
use scrl_trainer::Error;
use scrl_trainer::collective::{self, Ranks, threads_of_rank};
use scrl_trainer::evaluate::{
    Comparison, EvalConfig, Results, compare, evaluate_boxes, evaluate_images, evaluate_neighbors,
};

use cli::{Arguments, ProcessOptions, Protocol};

fn main() -> ExitCode {
    let arguments: Arguments = scrl_cli::parse();
    let (Protocol::Roi { process, .. }
    | Protocol::Linear { process, .. }
    | Protocol::Knn { process, .. }
    | Protocol::Compare { process, .. }) = &arguments.protocol;
    let world = World::detect(&process.world)
        .unwrap_or_else(|error| usage_error::<Arguments>(error).exit());
    collective::run("scrl-eval", world, |ranks| run(arguments, ranks))
}

fn run(arguments: Arguments, ranks: &Ranks) -> Result<()> {
    match arguments.protocol {
        Protocol::Roi { options, process } => {
            let config = options.resolve()?;
            let protocol = |reporter: &Reporter| evaluate_boxes(&config, ranks, reporter);
            evaluate(&process, &config.common, ranks, protocol, report)
        }
        Protocol::Linear { options, process } => {
            let config = options.resolve()?;
            let protocol = |reporter: &Reporter| evaluate_images(&config, ranks, reporter);
            evaluate(&process, &config.common, ranks, protocol, report)
        }
        Protocol::Compare { options, process } => {
            let config = options.resolve()?;
            let protocol = |reporter: &Reporter| compare(&config, ranks, reporter);
            evaluate(&process, &config.common, ranks, protocol, report_comparison)
        }
        Protocol::Knn { options, process } => {
            let config = options.resolve()?;
            let protocol = |reporter: &Reporter| evaluate_neighbors(&config, ranks, reporter);
            evaluate(&process, &config.common, ranks, protocol, report)
        }
    }
}

/// Runs a protocol and has its results written; prints the text that this returns.
fn evaluate<R>(
    process: &ProcessOptions,
    config: &EvalConfig,
    ranks: &Ranks,
    protocol: impl FnOnce(&Reporter) -> Result<Option<R>, Error>,
    report: impl FnOnce(&R, &EvalConfig) -> Result<String, Error>,
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
    let text = report(&results, config)?;
    if !process.quiet {
        scrl_cli::print(text);
    }
    Ok(())
}

/// Writes the results of a backbone.
fn report(results: &Results, config: &EvalConfig) -> Result<String, Error> {
    let [json, png] = results.write(&config.out)?;
    let Results { arch, checkpoint, device, .. } = results;
    let (table, json, png) = (results.table(), json.display(), png.display());
    Ok(format!("{table}\n{arch} of {checkpoint} on {device}: {json}, {png}"))
}

/// Writes the results of a comparison.
fn report_comparison(results: &Comparison, config: &EvalConfig) -> Result<String, Error> {
    let [json, html] = results.write(&config.out)?;
    Ok(format!("{}\n{}, {}", results.table(), html.display(), json.display()))
}
