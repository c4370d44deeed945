//! The service itself, as the service control manager starts it.

use std::{ffi::OsString, sync::OnceLock, time::Duration};

use anyhow::Context;
use clap::parser::ValueSource;
use windows_service::{
    define_windows_service,
    service::{
        ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus,
        ServiceType,
    },
    service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle},
    service_dispatcher,
};

use super::{
    NAME,
    event_log::{Level, report},
    parse,
};
use crate::commands::{live, windows::run::STOP};

/// What a service that could not do its work reports, for the recovery actions to follow.
const FAILED: ServiceExitCode = ServiceExitCode::ServiceSpecific(1);

/// How long the last window, and writing what is left, may take.
const STOPPING: Duration = Duration::from_secs(20);

/// Who is told of the service's state. It is not known yet when the handler of controls is registered.
static MANAGER: OnceLock<ServiceStatusHandle> = OnceLock::new();

/// The options of the run. The system calls us without any way to pass them.
static OPTIONS: OnceLock<Vec<OsString>> = OnceLock::new();

define_windows_service!(entry, main);

/// Hands this program over to the service control manager, until the service has stopped.
pub fn dispatch(run: Vec<OsString>) -> anyhow::Result<()> {
    let _ = OPTIONS.set(run);
    service_dispatcher::start(NAME, entry).context(
        "this is what the service control manager starts; `slowburn service start` has it do that",
    )
}

fn main(_arguments: Vec<OsString>) {
    let result = serve();
    if let Err(error) = result {
        let _ = report(Level::Error, &format!("slowburn has stopped: {error:#}"));
    }
}

fn serve() -> anyhow::Result<()> {
    let handle = service_control_handler::register(NAME, |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown => {
            // None comes before the service runs, and has a manager.
            if let Some(manager) = MANAGER.get() {
                let _ = tell(
                    *manager,
                    ServiceState::StopPending,
                    ServiceExitCode::NO_ERROR,
                );
            }
            STOP.notify_one();
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    })?;
    let handle = *MANAGER.get_or_init(|| handle);
    tell(handle, ServiceState::Running, ServiceExitCode::NO_ERROR)?;
    let result = follow();
    let code = if result.is_ok() {
        ServiceExitCode::NO_ERROR
    } else {
        FAILED
    };
    tell(handle, ServiceState::Stopped, code)?;
    result
}

fn follow() -> anyhow::Result<()> {
    let options = OPTIONS.get().context("there are no options")?;
    let (run, matches) = parse(options)?;
    let shown: Vec<_> = options.iter().map(|word| word.to_string_lossy()).collect();
    report(
        Level::Information,
        &format!("slowburn runs: {}", shown.join(" ")),
    )
    .context("cannot write to the event log")?;
    let given = |option: &str| matches.value_source(option) == Some(ValueSource::CommandLine);
    live::run(run, given, false)?;
    let _ = report(
        Level::Information,
        "slowburn has stopped, as it was told to",
    );
    Ok(())
}

fn tell(
    handle: ServiceStatusHandle,
    state: ServiceState,
    exit_code: ServiceExitCode,
) -> windows_service::Result<()> {
    let accepted = match state {
        ServiceState::Running => ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN,
        _ => ServiceControlAccept::empty(),
    };
    handle.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: accepted,
        exit_code,
        checkpoint: 0,
        wait_hint: STOPPING,
        process_id: None,
    })
}
