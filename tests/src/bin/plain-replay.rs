//! Reads a stream and writes it again, line by line with `serde_json` and nothing else: what `cargo xtask bench replay`
//! compares with.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::Parser;
use slowburn::stream::Line;

/// Read a stream and write it again.
#[derive(Parser)]
struct Options {
    input: PathBuf,
    output: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut input = BufReader::with_capacity(1 << 20, File::open(&options.input)?);
    let mut output = BufWriter::with_capacity(1 << 20, File::create(&options.output)?);
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let record: Line = serde_json::from_str(&line).context("no record")?;
        serde_json::to_writer(&mut output, &record)?;
        output.write_all(b"\n")?;
        line.clear();
    }
    Ok(output.flush()?)
}
