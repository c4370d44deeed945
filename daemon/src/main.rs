//! Entry point of `slowburn`.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, parser::ValueSource};
use slowburn::{
    cli::{Cli, Command},
    commands::{
        check_config, diff, explain, fail, inspect, live,
        platform::{doctor, messages, services},
        replay, schema,
    },
};
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let level = match cli.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(messages(&cli.command))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    let result = match &cli.command {
        Command::Run(options) => {
            // What is given on the command line counts more than what the policy says.
            let given = |option: &str| {
                let run = matches.subcommand_matches("run");
                let source = run.and_then(|run| run.value_source(option));
                source == Some(ValueSource::CommandLine)
            };
            live::run((**options).clone(), given, cli.verbose > 1)
        }
        Command::Services(options) => services::run(options),
        Command::Doctor(options) => doctor::run(options),
        Command::Replay(options) => replay::run(options),
        Command::Inspect(options) => inspect::run(options),
        Command::Diff(options) => {
            return diff::run(options).unwrap_or_else(|error| fail(&error));
        }
        Command::Explain(options) => explain::run(options),
        Command::CheckConfig(options) => check_config::run(options),
        #[cfg(windows)]
        Command::Service(options) => slowburn::commands::platform::service::run(options),
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
