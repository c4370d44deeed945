//! Entry point of `slowburn`.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use slowburn::{
    cli::{Cli, Command},
    commands::{diff, doctor, fail, replay, run, schema, services},
};
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    let result = match &cli.command {
        Command::Run(options) => run::run(options, cli.verbose > 1),
        Command::Services(options) => services::run(options),
        Command::Doctor(options) => doctor::run(options),
        Command::Replay(options) => replay::run(options),
        Command::Diff(options) => {
            return diff::run(options).unwrap_or_else(|error| fail(&error));
        }
        Command::Schema => {
            schema::run();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}
