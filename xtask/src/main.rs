//! The developer commands of slowburn, started as `cargo xtask <command>`.

mod bench;
mod build_ebpf;
mod cache;
mod ci;
mod command;
mod ebpf_tools;
mod eval;
mod guest;
mod lint;
mod matrix;
mod object_file;
mod packages;
mod run;
mod runtimes;
mod stamp;
mod test;
mod test_output;
mod truth_report;
mod vm;
mod windows;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Developer commands of slowburn",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Test(test::Args),
    Vm(vm::Args),
    Bench(bench::Args),
    Eval(eval::Args),
    /// Everything the continuous integration runs: lint, build-ebpf --check, windows clippy, test --install, vm, windows test
    Ci,
    BuildEbpf(build_ebpf::Args),
    Windows(windows::Args),
    /// Check formatting and run clippy, with warnings as errors
    Lint,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Ci => ci::run(),
        Command::BuildEbpf(args) => build_ebpf::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Windows(args) => windows::run(&args),
        Command::Lint => lint::run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
