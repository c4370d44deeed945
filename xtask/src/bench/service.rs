//! Real services under load, each as its own users would measure it: throughput and the time that 99 % of requests stay below.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::command;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Redis,
    Postgres,
    Nginx,
}

/// What a client measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    pub per_second: f64,
    pub p99_ms: f64,
}

/// Where they listen, on this machine only.
const PORT: u16 = 47_321;

/// How long the client sends, in seconds.
const SECONDS: &str = "3";

/// As many as a small machine has busy.
const CLIENTS: &str = "16";

const PATIENCE: Duration = Duration::from_secs(20);

impl Service {
    pub const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::Nginx];

    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Nginx => "nginx",
        }
    }

    pub fn what(self) -> &'static str {
        match self {
            Self::Redis => "`redis-benchmark`, GET, 16 clients",
            Self::Postgres => "`pgbench --select-only`, 16 clients",
            Self::Nginx => "`wrk`, a page of 1 KB, 16 connections",
        }
    }

    /// What it needs and this machine does not have.
    pub fn missing(self) -> Option<&'static str> {
        let needed: &[&'static str] = match self {
            Self::Redis => &["redis-server", "redis-benchmark"],
            Self::Postgres => &["pg_isready", "pgbench", "setpriv"],
            Self::Nginx => &["nginx", "wrk"],
        };
        let missing = needed
            .iter()
            .find(|program| command::find_in_path(program).is_none());
        missing.copied()
    }

    /// Starts it, and waits until it answers.
    pub fn start(self, scratch: &Path) -> Result<Running> {
        let directory = scratch.join(self.name());
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let mut server = match self {
            Self::Redis => redis(&directory),
            Self::Postgres => postgres(&directory)?,
            Self::Nginx => nginx(&directory)?,
        };
        let child = command::end_with_us(&mut server)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::line(&server)))?;
        let mut running = Running {
            service: self,
            child,
            directory,
        };
        running.wait_until_it_answers()?;
        if self == Self::Postgres {
            running.prepare_database()?;
        }
        Ok(running)
    }
}

fn redis(directory: &Path) -> Command {
    let mut server = Command::new("redis-server");
    server.current_dir(directory);
    server.args(["--port", &PORT.to_string(), "--bind", "127.0.0.1"]);
    server.args(["--save", "", "--appendonly", "no"]);
    server
}

fn nginx(directory: &Path) -> Result<Command> {
    fs::write(directory.join("page"), [b'x'; 1024])?;
    let shown = directory.display();
    let configuration = format!(
        "daemon off; worker_processes 2; error_log stderr; pid {shown}/pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {shown}; proxy_temp_path {shown};\n\
         fastcgi_temp_path {shown}; uwsgi_temp_path {shown}; scgi_temp_path {shown};\n\
         server {{ listen 127.0.0.1:{PORT}; root {shown}; }} }}\n"
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, configuration)?;
    let mut server = Command::new("nginx");
    server.arg("-c").arg(path).arg("-p").arg(directory);
    Ok(server)
}

/// A server that refuses to run as root, and whose programs are not in the path.
fn postgres(directory: &Path) -> Result<Command> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("postgresql is not installed")?;
    let newest = versions
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("bin"))
        .max();
    let programs = newest.context("postgresql is not installed")?;
    let owner = command::first_line(Command::new("id").args(["--user", "postgres"]))?;
    std::os::unix::fs::chown(directory, owner.parse().ok(), None)?;
    let data = directory.join("data");
    let mut make = as_postgres(&programs.join("initdb"));
    make.args(["--auth=trust", "--no-sync", "--pgdata"])
        .arg(&data)
        .stdout(Stdio::null());
    command::run(&mut make)?;
    let mut server = as_postgres(&programs.join("postgres"));
    server
        .arg("-D")
        .arg(&data)
        .args(["-p", &PORT.to_string(), "-h", "127.0.0.1", "-k"])
        .arg(directory);
    Ok(server)
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(program);
    command
}

/// A service that answers.
pub struct Running {
    service: Service,
    child: Child,
    directory: PathBuf,
}

impl Running {
    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.answers() {
            if start.elapsed() > PATIENCE || self.child.try_wait()?.is_some() {
                bail!("{} does not answer", self.service.name());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        if self.service != Service::Postgres {
            return TcpStream::connect(("127.0.0.1", PORT)).is_ok();
        }
        // It listens some time before it can do anything.
        let mut asked = Command::new("pg_isready");
        asked.args(["--quiet", "--host=127.0.0.1", "--port", &PORT.to_string()]);
        asked.status().is_ok_and(|status| status.success())
    }

    fn prepare_database(&self) -> Result<()> {
        let mut fill = self.pgbench();
        fill.args(["--initialize", "--quiet", "--scale=2"]);
        command::run(fill.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    fn pgbench(&self) -> Command {
        let mut client = Command::new("pgbench");
        client
            .current_dir(&self.directory)
            .env("PGDATABASE", "postgres")
            .args([
                "--host=127.0.0.1",
                "--username=postgres",
                "--port",
                &PORT.to_string(),
            ]);
        client
    }

    /// Lets a client send requests for a while, and says what it has measured.
    pub fn serve(&self) -> Result<Served> {
        let port = PORT.to_string();
        let served = match self.service {
            Service::Redis => {
                let mut client = Command::new("redis-benchmark");
                client.args([
                    "-p", &port, "-t", "get", "-n", "300000", "-c", CLIENTS, "--csv",
                ]);
                redis_said(&output(&mut client)?)
            }
            Service::Nginx => {
                let mut client = Command::new("wrk");
                client.args([
                    "--threads",
                    "1",
                    "--connections",
                    CLIENTS,
                    "--duration",
                    SECONDS,
                    "--latency",
                ]);
                client.arg(format!("http://127.0.0.1:{PORT}/page"));
                wrk_said(&output(&mut client)?)
            }
            Service::Postgres => {
                let mut client = self.pgbench();
                client.args([
                    "--select-only",
                    "--no-vacuum",
                    "--client",
                    CLIENTS,
                    "--time",
                    SECONDS,
                    "--log",
                    "--log-prefix=log",
                ]);
                let said = output(&mut client)?;
                pgbench_said(&said, &self.take_log()?)
            }
        };
        served.with_context(|| {
            format!(
                "the client of {} has said something else than expected",
                self.service.name()
            )
        })
    }

    /// Microseconds that each transaction took.
    fn take_log(&self) -> Result<Vec<u32>> {
        let mut took = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("log."))
            {
                let lines = BufReader::new(fs::File::open(&path)?)
                    .lines()
                    .map_while(Result::ok);
                took.extend(lines.filter_map(|line| line.split(' ').nth(2)?.parse::<u32>().ok()));
                fs::remove_file(&path)?;
            }
        }
        Ok(took)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn output(client: &mut Command) -> Result<String> {
    let output = client.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("`{}` failed ({})", command::line(client), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `"GET","98522.17","0.300","0.120","0.287","0.447","0.583","1.135"`: after the name requests a second, then
/// milliseconds: mean, least, p50, p95, p99, most.
fn redis_said(text: &str) -> Option<Served> {
    let line = text.lines().find(|line| line.starts_with("\"GET\""))?;
    let numbers: Vec<f64> = line
        .split(',')
        .filter_map(|field| field.trim_matches('"').parse().ok())
        .collect();
    Some(Served {
        per_second: *numbers.first()?,
        p99_ms: *numbers.get(5)?,
    })
}

/// `Requests/sec:  12345.67` and `     99%    1.23ms`.
fn wrk_said(text: &str) -> Option<Served> {
    let after = |key: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(key))
            .map(str::trim)
    };
    let p99 = after("99%")?;
    let number = p99.trim_end_matches(char::is_alphabetic);
    let scale = match &p99[number.len()..] {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    Some(Served {
        per_second: after("Requests/sec:")?.parse().ok()?,
        p99_ms: number.parse::<f64>().ok()? * scale,
    })
}

/// `tps = 12345.678 (without initial connection time)`, and the time of each transaction.
fn pgbench_said(text: &str, took: &[u32]) -> Option<Served> {
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    let mut took = took.to_vec();
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100)?;
    Some(Served {
        per_second: tps.split(' ').next()?.parse().ok()?,
        p99_ms: f64::from(*p99) / 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_understood() {
        let redis = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"98522.17\",\"0.3\",\"0.1\",\"0.2\",\"0.4\",\"0.583\",\"1.1\"\n";
        let wrk = "  Latency Distribution\n     50%  300.00us\n     99%    1.23ms\nRequests/sec:  12345.67\n";
        let served = |per_second, p99_ms| Some(Served { per_second, p99_ms });
        assert_eq!(redis_said(redis), served(98_522.17, 0.583));
        assert_eq!(wrk_said(wrk), served(12_345.67, 1.23));
        let took: Vec<u32> = (0..200).collect();
        assert_eq!(
            pgbench_said("tps = 5000.5 (without)\n", &took),
            served(5_000.5, 0.198)
        );
        assert_eq!(redis_said("error"), None);
    }
}
