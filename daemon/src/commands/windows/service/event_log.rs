//! Messages of the service, in the event log of Windows: a service has no console.

use std::io;

use windows::{
    Win32::{
        Foundation::{ERROR_FILE_NOT_FOUND, HANDLE},
        System::{
            EventLog::{
                DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE,
                EVENTLOG_WARNING_TYPE, REPORT_EVENT_TYPE, RegisterEventSourceW, ReportEventW,
            },
            Registry::{
                HKEY_LOCAL_MACHINE, REG_DWORD, REG_EXPAND_SZ, RRF_RT_ANY, RegDeleteKeyW,
                RegGetValueW, RegSetKeyValueW,
            },
        },
    },
    core::{HSTRING, PCWSTR, w},
};

/// Where Windows looks up what a number of a source means.
const KEY: PCWSTR = w!(r"SYSTEM\CurrentControlSet\Services\EventLog\Application\slowburn");

/// A program of every Windows that has messages numbered 1 to 1000, each of which is the text that comes with it.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";

/// Number of all messages.
const NUMBER: u32 = 1;

/// Makes the source known.
pub fn register() -> io::Result<()> {
    // Errors, warnings, information.
    static TYPES: u32 = 7;
    let file: Vec<u16> = MESSAGES.encode_utf16().chain([0]).collect();
    // SAFETY: all names are constants that end with a zero; the values have the lengths that are passed.
    unsafe {
        RegSetKeyValueW(
            HKEY_LOCAL_MACHINE,
            KEY,
            w!("EventMessageFile"),
            REG_EXPAND_SZ.0,
            Some(file.as_ptr().cast()),
            size_of_val(file.as_slice()) as u32,
        )
        .ok()?;
        RegSetKeyValueW(
            HKEY_LOCAL_MACHINE,
            KEY,
            w!("TypesSupported"),
            REG_DWORD.0,
            Some((&raw const TYPES).cast()),
            size_of::<u32>() as u32,
        )
        .ok()?;
    }
    Ok(())
}

/// Makes it unknown again. Messages that are there stay.
pub fn unregister() -> io::Result<()> {
    // SAFETY: the name is a constant that ends with a zero.
    let code = unsafe { RegDeleteKeyW(HKEY_LOCAL_MACHINE, KEY) };
    if code == ERROR_FILE_NOT_FOUND {
        return Ok(());
    }
    Ok(code.ok()?)
}

/// Is the source known?
pub fn is_registered() -> bool {
    // SAFETY: the names are constants that end with a zero; nothing is written.
    let code = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            KEY,
            w!("EventMessageFile"),
            RRF_RT_ANY,
            None,
            None,
            None,
        )
    };
    code.is_ok()
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It has stopped.
    Error,
    /// It goes on.
    Warning,
    /// It is as it should be.
    Information,
}

/// Writes a message.
pub fn report(level: Level, text: &str) -> io::Result<()> {
    let kind: REPORT_EVENT_TYPE = match level {
        Level::Error => EVENTLOG_ERROR_TYPE,
        Level::Warning => EVENTLOG_WARNING_TYPE,
        Level::Information => EVENTLOG_INFORMATION_TYPE,
    };
    let source = Source::open()?;
    let text = HSTRING::from(text.trim_end());
    let texts = [PCWSTR(text.as_ptr())];
    // SAFETY: the text ends with a zero and lives until the call returns.
    unsafe { ReportEventW(source.0, kind, 0, NUMBER, None, 0, Some(&texts), None) }?;
    Ok(())
}

struct Source(HANDLE);

impl Source {
    fn open() -> io::Result<Self> {
        // SAFETY: the name is a constant that ends with a zero; no other host is meant.
        Ok(Self(unsafe {
            RegisterEventSourceW(PCWSTR::null(), w!("slowburn"))
        }?))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and is not used after this.
        let _ = unsafe { DeregisterEventSource(self.0) };
    }
}

/// Takes what else would be said on standard error: warnings and worse, a message each.
pub struct EventLog;

impl io::Write for EventLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let level = if text.contains("ERROR") {
            Level::Error
        } else {
            Level::Warning
        };
        report(level, &text)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
