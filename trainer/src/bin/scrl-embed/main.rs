//! `scrl-embed`: the features of images or boxes, to query and to look at.

mod cli;

use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::{Reporter, Stop};
use scrl_trainer::Error;
use scrl_trainer::evaluate::{Duplicates, EmbedConfig, Embedded, embed};

use cli::Arguments;

fn main() -> ExitCode {
    match run(scrl_cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-embed", &error),
    }
}

fn run(Arguments { options, threads, quiet, .. }: Arguments) -> Result<()> {
    let config = options.resolve()?;
    rayon::ThreadPoolBuilder::new().num_threads(scrl_cli::threads(threads)).build_global()?;
    let reporter = Reporter::new(quiet, Stop::on_ctrl_c()?);
    if let Some(reason) = &config.backbone.device.why_cpu {
        reporter.say(format_args!("note: on the CPU, as {reason}"));
    }
    let embedded = embed(&config, &reporter);
    reporter.end();
    let embedded = embedded?;
    if !quiet {
        report(&config, &embedded);
    }
    Ok(())
}

/// Says what was written.
fn report(config: &EmbedConfig, embedded: &Embedded) {
    let Embedded { arch, rows, channels, duplicates } = embedded;
    let what = if config.boxes.is_some() { "boxes" } else { "images" };
    scrl_cli::print(format_args!(
        "{rows} {what}, {channels} elements each, by {arch} of {}: {}",
        config.backbone.source,
        config.out.display()
    ));
    if let Some(Duplicates { pairs, groups, left_out, table, list }) = duplicates {
        let list = match list {
            Some(list) => format!(
                "{} lists all images but these {left_out}: give it to scrl-prep",
                list.display()
            ),
            None => "no list is written, as images in an archive or a table cannot be listed \
                     without the others"
                .to_owned(),
        };
        scrl_cli::print(format_args!(
            "{pairs} pairs of duplicates in {groups} groups, {left_out} images besides the first \
             ones: {}; {list}",
            table.display()
        ));
    }
    if let Some(html) = &config.html {
        scrl_cli::print(format_args!("{}, to be opened in a browser", html.display()));
    }
}
