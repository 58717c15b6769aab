//! `scrl-eval`: the accuracy of a linear layer on a backbone's features.

mod cli;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::{Reporter, Stop};
use scrl_trainer::Error;
use scrl_trainer::evaluate::{Results, evaluate_boxes, evaluate_images};

use cli::{Arguments, ProcessOptions, Protocol};

fn main() -> ExitCode {
    match run(scrl_cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-eval", &error),
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.protocol {
        Protocol::Roi { options, process } => {
            let config = options.resolve()?;
            evaluate(&process, &config.common.out, |reporter| evaluate_boxes(&config, reporter))
        }
        Protocol::Linear { options, process } => {
            let config = options.resolve()?;
            evaluate(&process, &config.common.out, |reporter| evaluate_images(&config, reporter))
        }
    }
}

/// Runs a protocol, writes its results to `out`, and prints their table.
fn evaluate(
    process: &ProcessOptions,
    out: &Path,
    protocol: impl FnOnce(&Reporter) -> Result<Results, Error>,
) -> Result<()> {
    let threads = scrl_cli::threads(process.threads);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let reporter = Reporter::new(process.quiet, Stop::on_ctrl_c()?);
    let results = protocol(&reporter);
    reporter.end();
    let results = results?;
    let [json, png] = results.write(out)?;
    if !process.quiet {
        scrl_cli::print(results.table());
        let Results { arch, checkpoint, .. } = results;
        let (json, png) = (json.display(), png.display());
        scrl_cli::print(format_args!("{arch} of {checkpoint}: {json}, {png}"));
    }
    Ok(())
}
