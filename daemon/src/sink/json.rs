//! JSON lines to a file or to standard output.
//!
//! Records are serialised into blocks, and a thread of its own writes the blocks. The queue between
//! the two is bounded: when the output is slower than the records, whole blocks are dropped and counted,
//! and the pipeline never waits.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::stream::{Line, Record};

/// A block is handed over when it is this large.
const BLOCK: usize = 64 << 10;

/// Blocks that may wait to be written: 16 MiB, or 0.2 s at 200,000 records a second.
const QUEUE: usize = 256;

/// How often a lasting error is told again.
const REMIND: Duration = Duration::from_secs(10);

/// Permissions of the file: the stream says what a service does, which is not everybody's business.
#[cfg(unix)]
const MODE: u32 = 0o640;

/// How to write.
#[derive(Clone, Debug)]
pub struct OutputOptions {
    /// `None` for standard output.
    pub path: Option<PathBuf>,
    /// When to start another file.
    pub rotation: Option<Rotation>,
}

/// When to start another file, and how many to keep.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// A file that is larger than this is renamed to `NAME.1`, `NAME.1` to `NAME.2`, and so on.
    pub bytes: u64,
    /// Renamed files that are kept.
    pub keep: u32,
}

/// The output cannot be used at all.
#[derive(Debug, Error)]
pub enum OutputError {
    /// The file could not be opened.
    #[error("cannot write to {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread for writing.
    #[error("cannot start a thread for writing: {0}")]
    Thread(#[source] io::Error),
}

enum Message {
    Block { bytes: Bytes, records: u64 },
    Reopen,
}

#[derive(Default)]
struct Shared {
    /// Records that did not reach the output.
    lost: AtomicU64,
    /// The reader of a pipe has gone.
    closed: AtomicBool,
}

/// Serialises records and hands them to the writing thread.
pub struct JsonOutput {
    block: BytesMut,
    records: u64,
    sender: Option<SyncSender<Message>>,
    writer: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl JsonOutput {
    /// Opens the output. A file is appended to, and created with permissions 0640.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(options: OutputOptions) -> Result<Self, OutputError> {
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::open(options, Arc::clone(&shared))?;
        let (sender, receiver) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("slowburn-output".into())
            .spawn(move || writer.run(&receiver))
            .map_err(OutputError::Thread)?;
        Ok(Self {
            block: BytesMut::with_capacity(BLOCK),
            records: 0,
            sender: Some(sender),
            writer: Some(writer),
            shared,
        })
    }

    /// Adds a record.
    pub fn record(&mut self, record: Record) {
        let line = Line::from(record);
        let before = self.block.len();
        match serde_json::to_writer((&mut self.block).writer(), &line) {
            Ok(()) => {
                self.block.put_u8(b'\n');
                self.records += 1;
            }
            Err(error) => {
                tracing::error!("a record could not be serialised: {error}");
                self.block.truncate(before);
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.block.len() >= BLOCK {
            self.flush();
        }
    }

    /// Hands over what there is, without waiting.
    pub fn flush(&mut self) {
        let Some(message) = self.take_block() else {
            return;
        };
        let Some(sender) = &self.sender else { return };
        if let Err(
            TrySendError::Full(Message::Block { records, .. })
            | TrySendError::Disconnected(Message::Block { records, .. }),
        ) = sender.try_send(message)
        {
            self.shared.lost.fetch_add(records, Ordering::Relaxed);
        }
    }

    fn take_block(&mut self) -> Option<Message> {
        if self.block.is_empty() {
            return None;
        }
        // Keeps one allocation in use as long as the writer keeps up.
        let bytes = self.block.split().freeze();
        self.block.reserve(BLOCK);
        Some(Message::Block {
            bytes,
            records: std::mem::take(&mut self.records),
        })
    }

    /// Opens the file anew, after somebody else has renamed it.
    pub fn reopen(&mut self) {
        self.flush();
        if let Some(sender) = &self.sender {
            let _ = sender.send(Message::Reopen);
        }
    }

    /// Takes the number of records lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.shared.lost.swap(0, Ordering::Relaxed)
    }

    /// Has the reader of the output gone?
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Waits until everything is written. Returns the number of records lost since the last `take_lost`.
    pub fn finish(&mut self) -> u64 {
        let message = self.take_block();
        if let (Some(sender), Some(message)) = (self.sender.take(), message) {
            let _ = sender.send(message);
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self.take_lost()
    }
}

/// The thread that writes.
struct Writer {
    options: OutputOptions,
    out: Out,
    shared: Arc<Shared>,
    /// Records lost since the last message about it, and when that was.
    untold: u64,
    told: Option<Instant>,
}

enum Out {
    Stdout,
    File {
        file: File,
        bytes: u64,
    },
    /// Could not be opened again.
    Broken,
}

impl Writer {
    fn open(options: OutputOptions, shared: Arc<Shared>) -> Result<Self, OutputError> {
        let out = match &options.path {
            None => Out::Stdout,
            Some(path) => open(path).map_err(|source| OutputError::Open {
                path: path.clone(),
                source,
            })?,
        };
        Ok(Self {
            options,
            out,
            shared,
            untold: 0,
            told: None,
        })
    }

    fn run(&mut self, receiver: &Receiver<Message>) {
        for message in receiver {
            match message {
                Message::Block { bytes, records } => self.block(&bytes, records),
                Message::Reopen => self.reopen(),
            }
        }
        self.tell(None);
    }

    fn block(&mut self, bytes: &[u8], records: u64) {
        if matches!(self.out, Out::Broken) {
            self.reopen();
        }
        match self.write(bytes) {
            Ok(()) => self.tell(None),
            Err(error) => {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    self.shared.closed.store(true, Ordering::Relaxed);
                }
                self.shared.lost.fetch_add(records, Ordering::Relaxed);
                self.untold += records;
                self.tell(Some(&error));
            }
        }
        self.rotate_if_due();
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.out {
            Out::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Out::File { file, bytes: size } => {
                if let Err(error) = file.write_all(bytes) {
                    // Half a line would spoil the file for its readers. Not possible on a pipe or device.
                    let _ = file.set_len(*size);
                    return Err(error);
                }
                *size += bytes.len() as u64;
                Ok(())
            }
            Out::Broken => Err(io::Error::other("the file could not be opened again")),
        }
    }

    /// Tells about losses: at once when they begin, then now and then, and when writing works again.
    fn tell(&mut self, error: Option<&io::Error>) {
        let place = self
            .options
            .path
            .as_ref()
            .map_or("standard output".into(), |p| p.display().to_string());
        match error {
            Some(error) if self.told.is_none_or(|told| told.elapsed() >= REMIND) => {
                tracing::error!(
                    "cannot write to {place}: {error}; records lost: {}, slowburn goes on",
                    self.untold
                );
                self.told = Some(Instant::now());
                self.untold = 0;
            }
            None if self.told.take().is_some() => {
                tracing::info!(
                    "writing to {place} works again; {} more records were lost",
                    self.untold
                );
                self.untold = 0;
            }
            _ => {}
        }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.options.path else {
            return;
        };
        match open(path) {
            Ok(out) => self.out = out,
            Err(error) => {
                if !matches!(self.out, Out::Broken) {
                    tracing::error!(
                        "cannot open {} again: {error}; records are lost until it works",
                        path.display()
                    );
                }
                self.out = Out::Broken;
            }
        }
    }

    fn rotate_if_due(&mut self) {
        let (Some(rotation), Out::File { bytes, .. }, Some(path)) =
            (self.options.rotation, &self.out, &self.options.path)
        else {
            return;
        };
        if *bytes < rotation.bytes {
            return;
        }
        if let Err(error) = rotate(path, rotation.keep) {
            tracing::warn!("cannot rename {} for rotation: {error}", path.display());
        }
        self.reopen();
    }
}

/// Opens a file for JSON lines: it is appended to, and created with permissions 0640.
///
/// # Errors
/// If it cannot be opened.
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    // On Windows a file gets the access list of its directory.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODE);
    options.open(path)
}

fn open(path: &Path) -> io::Result<Out> {
    let file = open_file(path)?;
    let bytes = file.metadata()?.len();
    Ok(Out::File { file, bytes })
}

/// `NAME.(n-1)` becomes `NAME.n`, and so on down to `NAME` becomes `NAME.1`.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    for n in (1..keep).rev() {
        if numbered(n).exists() {
            fs::rename(numbered(n), numbered(n + 1))?;
        }
    }
    fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Loss, LossClass, Moment};

    fn loss(count: u64) -> Record {
        Record::Loss(Loss {
            ts: Moment(1),
            class: LossClass::Mapping,
            count,
        })
    }

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn appends_whole_lines_with_version_type_and_time_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        fs::write(&path, "{\"earlier\":true}\n").unwrap();
        let mut output = JsonOutput::open(OutputOptions {
            path: Some(path.clone()),
            rotation: None,
        })
        .unwrap();
        output.record(loss(7));
        assert_eq!(output.finish(), 0);
        assert_eq!(
            lines(&path),
            [
                "{\"earlier\":true}",
                r#"{"v":1,"type":"loss","ts":"1970-01-01T00:00:00.000000001Z","class":"mapping","count":7}"#
            ]
        );
    }

    #[cfg(unix)]
    #[test]
    fn new_files_are_not_for_everybody() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut output = JsonOutput::open(OutputOptions {
            path: Some(path.clone()),
            rotation: None,
        })
        .unwrap();
        assert_eq!(output.finish(), 0);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o137,
            0,
            "nothing beyond 0640"
        );
    }

    #[test]
    fn rotates_and_keeps_as_many_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let rotation = Some(Rotation { bytes: 1, keep: 2 });
        let mut output = JsonOutput::open(OutputOptions {
            path: Some(path.clone()),
            rotation,
        })
        .unwrap();
        for n in 1..=4 {
            output.record(loss(n));
            output.flush();
        }
        assert_eq!(output.finish(), 0);
        let count = |name: &str| lines(&dir.path().join(name)).concat();
        assert!(count("events.jsonl.1").contains("\"count\":4"));
        assert!(count("events.jsonl.2").contains("\"count\":3"));
        assert!(!dir.path().join("events.jsonl.3").exists());
        assert_eq!(count("events.jsonl"), "");
    }

    #[test]
    fn reopens_after_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut output = JsonOutput::open(OutputOptions {
            path: Some(path.clone()),
            rotation: None,
        })
        .unwrap();
        output.record(loss(1));
        output.flush();
        // The queue is in order: once the file is there anew, the first record is in the old one.
        let moved = dir.path().join("moved");
        while lines(&path).is_empty() {
            std::thread::yield_now();
        }
        fs::rename(&path, &moved).unwrap();
        output.reopen();
        output.record(loss(2));
        assert_eq!(output.finish(), 0);
        assert_eq!(lines(&moved).len(), 1);
        assert!(lines(&path)[0].contains("\"count\":2"));
    }

    #[cfg(unix)]
    #[test]
    fn full_disk_loses_visibly() {
        let mut output = JsonOutput::open(OutputOptions {
            path: Some("/dev/full".into()),
            rotation: None,
        })
        .unwrap();
        output.record(loss(1));
        output.record(loss(2));
        assert_eq!(output.finish(), 2);
    }

    #[test]
    fn unwritable_path_is_named() {
        let error = JsonOutput::open(OutputOptions {
            path: Some("/nonexistent/x".into()),
            rotation: None,
        })
        .err()
        .unwrap();
        assert!(
            error
                .to_string()
                .starts_with("cannot write to /nonexistent/x: "),
            "{error}"
        );
    }
}
